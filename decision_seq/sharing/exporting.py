"""Export of a trained policy for other programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from decision_seq import checkpoint
from decision_seq.checkpoint import Loaded
from decision_seq.config import require, save_text
from decision_seq.machine.files import whole
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.sequences.conditioning import ReturnToGo
from decision_seq.sharing import foreign, layouts, onnx_file
from decision_seq.sharing.card import card
from decision_seq.types import Reporter, Spec

# Our activations -> transformers' names; "gelu" is the exact one in both.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu"}
# Our heads -> transformers' `action_tanh`.
TANH = {"plain": True, "linear": False}


def export(path: Path, form: str, output: Path, reporter: Reporter) -> Path:
    """Write the policy of a run or checkpoint to `output`, whole or not at all -> `output`.

    form: a key of `FORMS`. UserError when `output` exists, and for a policy that the form cannot
    express.
    """
    output = Path(os.path.abspath(output))
    require(not output.exists(), f"{output} exists; name another --output")
    loaded = checkpoint.load(path, reporter=reporter)
    loaded.policy.eval()
    with whole(output) as partial:
        FORMS[form](loaded, partial)
    return output


def write_transformers(loaded: Loaded, output: Path) -> None:
    """Write a folder for `transformers.DecisionTransformerModel.from_pretrained`, and its card.

    The statistics and the return scale are keys of config.json, where users of transformers expect
    them.
    """
    config, conditioning, spec = loaded.policy_config, loaded.conditioning, loaded.policy.spec
    which = f"{loaded.path}: transformers' DecisionTransformerModel has no"
    require(
        isinstance(config, DecisionTransformerConfig),
        f"{which} {type(config).__name__}; --to onnx takes any policy",
    )
    assert isinstance(config, DecisionTransformerConfig)
    backbone = config.backbone
    require(isinstance(backbone, GPTConfig), f"{which} {type(backbone).__name__}; try --to onnx")
    assert isinstance(backbone, GPTConfig)
    require(
        isinstance(conditioning, ReturnToGo) and conditioning.asks and spec.condition_size == 1,
        f"{which} {type(conditioning).__name__} conditioning, only a return-to-go; try --to onnx",
    )
    assert isinstance(conditioning, ReturnToGo)
    require(spec.action_kind == "continuous", f"{which} discrete actions; try --to onnx")
    require(config.head in TANH, f"{which} {config.head} head; try --to onnx")
    require(not config.squash, f"{which} tanh after its embeddings; try --to onnx")
    activation = ACTIVATIONS.get(backbone.activation)
    require(activation is not None, f"{which} activation {backbone.activation!r}; try --to onnx")
    weights = loaded.policy.state_dict()
    pairs = layouts.TRANSFORMERS.pairs(backbone.layers)
    statistics = {"encoder.mean": "state_mean", "encoder.std": "state_std"}
    extra = sorted(set(weights) - set(pairs) - set(statistics))
    require(not extra, f"{which} place for {extra and extra[0]}; try --to onnx")

    from transformers import DecisionTransformerConfig as TheirConfig
    from transformers import DecisionTransformerModel
    from transformers.utils import logging

    tree: dict[str, Any] = {
        "state_dim": spec.observation_shape[0],
        "act_dim": spec.action_size,
        "hidden_size": backbone.width,
        "max_ep_len": spec.max_timestep,
        "n_positions": 3 * config.context_length,
        "n_layer": backbone.layers,
        "n_head": backbone.heads,
        "activation_function": activation,
        "action_tanh": TANH[config.head],
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), backbone.dropout),
        # Settings for language models, unused here.
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
        "context_length": config.context_length,
        **action_range(spec),
        "return_scale": conditioning.scale,
        "delayed": loaded.facts.delayed,
        "env_id": loaded.facts.env_id,
        "targets": list(loaded.facts.targets),
        "dataset": loaded.facts.dataset,
        "source": loaded.facts.source,
        **{theirs: weights[mine].tolist() for mine, theirs in statistics.items()},
    }
    model = DecisionTransformerModel(TheirConfig(**tree))
    swapped = {
        theirs: layouts.TRANSFORMERS.swap(mine, weights[mine]) for mine, theirs in pairs.items()
    }
    # Tensors without influence on an action are zero: the positions, which transformers adds to all
    # tokens alike, the word embeddings, and the heads that predict states and returns.
    idle = {k: torch.zeros_like(v) for k, v in model.state_dict().items() if k not in swapped}
    model.load_state_dict({**idle, **swapped})
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(output)
    if bars:
        logging.enable_progress_bar()
    save_text(output / "README.md", card(loaded, "transformers"))


def action_range(spec: Spec) -> dict[str, list[float]]:
    """The keys of config.json on the range of actions that is [-1, 1] in transformers' model."""
    low, high = spec.action_range or ((-1.0,) * spec.action_size, (1.0,) * spec.action_size)
    return {"action_low": list(low), "action_high": list(high)}


def write_checkpoint(loaded: Loaded, output: Path) -> None:
    """Write the checkpoint without its optimiser, for `evaluate` and `import`, and its card."""
    foreign.copy_ours(loaded.path, output)
    save_text(output / "README.md", card(loaded, "checkpoint"))


FORMS: dict[str, Callable[[Loaded, Path], None]] = {
    "transformers": write_transformers,
    "onnx": onnx_file.write,
    "checkpoint": write_checkpoint,
}
