"""Any policy as one ONNX graph: input a context of the last K steps, output the next actions.

Inputs are in the environment's own units; the graph normalises them. They are: observations
[B, T, S], or frames [B, stack - 1 + T, H, W] uint8, each once; actions [B, T, A] or [B, T] (those
taken; the newest is ignored); conditions [B, T, C] (absent where C is 0); timesteps [B, T]; and
lengths [B], the number of real steps in each row, which is padded on the right. B and T are free, T
up to context_length. Inputs that a policy does not read are left out. The output is the likeliest
discrete action, or the mean of a stochastic head. The file's metadata hold the facts that a caller
needs.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decision_seq.checkpoint import Loaded
from decision_seq.config import require
from decision_seq.models.actions import ActionScale
from decision_seq.policies import Policy
from decision_seq.types import Batch, Spec, UserError

TOLERANCE = 1e-4  # of an action scaled to [-1, 1]; rounding errors are far smaller


class Acting(nn.Module):
    """`policy.act` as a function of tensors alone."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
        lengths: Tensor,
        conditions: Tensor | None = None,
    ) -> Tensor:
        count, steps = timesteps.shape
        if conditions is None:
            conditions = torch.zeros(count, steps, 0)
        mask = torch.arange(steps)[None] < lengths[:, None]  # [B, T]
        rewards = torch.zeros(count, steps)
        batch = Batch(observations, actions, rewards, conditions, timesteps, mask)
        chosen, state = self.policy.act(batch)
        if state is not None:
            raise UserError("this policy carries a state between steps, which a graph does not")
        return chosen


def write(loaded: Loaded, output: Path) -> None:
    """Write the policy as the ONNX file `output`, then compare the two.

    UserError when packages are missing or the policy cannot be expressed.
    """
    require(output.suffix == ".onnx", f"{output.name}: an ONNX file's name ends in .onnx")
    require(
        loaded.policy.memory == "window",
        f"{loaded.path} remembers the whole episode, and an ONNX graph reads the last steps alone;"
        " act by `decision-seq evaluate`",
    )
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; pip install 'decision-seq[onnx]'"
        ) from error
    acting = Acting(loaded.policy.cpu()).eval()
    length = loaded.policy_config.context_length
    inputs = _example(loaded.policy.spec, 3, min(length, 5))
    program = _trace(acting, inputs, loaded.path)
    graph = program.model.graph
    for entry in [entry for entry in graph.inputs if not entry.uses()]:
        graph.inputs.remove(entry)  # the tracer fixes the sizes of unused inputs
    program.model.metadata_props.update(_metadata(loaded))
    program.save(output)
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    for count, steps in ((1, 1), (2, length)):
        _check(acting, session, _example(loaded.policy.spec, count, steps), loaded.path)


def _check(acting: Acting, session: Any, inputs: dict[str, Tensor], path: Path) -> None:
    """UserError unless the graph takes inputs of these sizes and returns the policy's actions.

    The tracer fixes a size silently where a policy calls `len` on a tensor.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    with torch.inference_mode():
        expected = acting(**inputs)
    try:
        fed = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
        (found,) = session.run(None, fed)
    except InvalidArgument as error:
        raise UserError(
            f"{path} cannot be written as ONNX: the policy's code fixes the sizes of its inputs"
        ) from error
    scaled = ActionScale(acting.policy.spec)
    off = float((scaled(torch.as_tensor(found)) - scaled(expected)).abs().max())
    require(off <= TOLERANCE, f"{path}: the ONNX graph's actions are off by {off:.2g}")


def _example(spec: Spec, count: int, steps: int) -> dict[str, Tensor]:
    """Inputs of the right shapes with random values."""
    draw = torch.Generator().manual_seed(0)
    discrete = spec.action_kind == "discrete"
    shape = (count, steps)
    inputs = {
        "observations": torch.randn(*shape, *spec.observation_shape, generator=draw)
        if not spec.pixels
        else torch.randint(
            256, (count, spec.stack - 1 + steps, *spec.observation_shape[1:]), generator=draw
        ).byte(),
        "actions": torch.randint(spec.action_size, shape, generator=draw) + spec.first_choice
        if discrete
        else ActionScale(spec).inverse(
            torch.rand(*shape, spec.action_size, generator=draw) * 2 - 1
        ),
        "timesteps": torch.randint(spec.max_timestep, shape, generator=draw),
        "lengths": torch.randint(1, steps + 1, (count,), generator=draw),
    }
    if spec.condition_size:
        inputs["conditions"] = torch.randn(*shape, spec.condition_size, generator=draw)
    return inputs


def _trace(acting: Acting, inputs: dict[str, Tensor], path: Path) -> Any:
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    axes = {n: {0: batch} if n == "lengths" else {0: batch, 1: time} for n in inputs}
    before = inputs["observations"].shape[1] - inputs["timesteps"].shape[1]
    if before:  # frames that precede the first step's
        axes["observations"] = {0: batch, 1: time + before}
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about missing torchvision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own parts
            return torch.onnx.export(
                acting,
                kwargs=inputs,
                dynamo=True,
                input_names=list(inputs),
                output_names=["actions_chosen"],
                dynamic_shapes=axes,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever a policy's code raises
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:160]
        raise UserError(f"{path} cannot be written as ONNX: {reason}") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _metadata(loaded: Loaded) -> dict[str, str]:
    """The facts that a caller needs, as JSON values."""
    facts, conditioning = loaded.facts, loaded.conditioning
    values = {
        "return_scale": getattr(conditioning, "scale", None),
        "context_length": loaded.policy_config.context_length,
        "max_timestep": loaded.policy.spec.max_timestep,
        "delayed": facts.delayed,
        "env_id": facts.env_id,
        "targets": facts.targets,
        "dataset": facts.dataset,
        "source": facts.source,
    }
    return {key: json.dumps(value) for key, value in values.items()}
