"""Tests of ONNX export: the graph acts as the policy does, in onnxruntime."""

import builtins
import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from decision_seq import checkpoint
from decision_seq.models.backbones import GPTConfig, LSTMConfig
from decision_seq.models.encoders import ImageConfig
from decision_seq.models.positions import WindowConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.sharing import onnx_file
from decision_seq.sharing.exporting import export
from decision_seq.types import Batch, Reporter, Spec, UserError
from tests.sharing.conftest import FACTS, K, compare


@pytest.fixture
def session(make_checkpoint: Callable[..., Path], tmp_path: Path) -> onnxruntime.InferenceSession:
    file = export(make_checkpoint(), "onnx", tmp_path / "policy.onnx", Reporter())
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def test_an_episode_and_what_a_caller_must_know(
    session: onnxruntime.InferenceSession, make_checkpoint: Callable[..., Path]
) -> None:
    loaded = checkpoint.load(make_checkpoint(name="again"))

    def act(batch: Batch) -> np.ndarray:
        fed = {
            "observations": batch.observations,
            "actions": batch.actions,
            "conditions": batch.conditions,
            "timesteps": batch.timesteps,
            "lengths": batch.lengths,
        }
        return session.run(None, fed)[0]

    compare(loaded, act)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["return_scale"]) == 1000.0
    assert json.loads(told["context_length"]) == K
    assert json.loads(told["max_timestep"]) == 1000
    assert json.loads(told["env_id"]) == "Hopper-v4"
    assert tuple(json.loads(told["targets"])) == FACTS.targets

    # Rows of unequal lengths: each acts at its own newest step, and padding has no effect.
    inputs = onnx_file._example(loaded.policy.spec, 6, K)
    fed = {name: tensor.numpy() for name, tensor in inputs.items()}
    fed["lengths"] = np.array([1, 2, 3, 4, 5, 5])
    (together,) = session.run(None, fed)
    for row, length in enumerate(fed["lengths"]):
        alone = {name: a[row : row + 1] for name, a in fed.items()}
        cut = {name: a[:, :length] if a.ndim > 1 else a for name, a in alone.items()}
        np.testing.assert_allclose(session.run(None, cut)[0][0], together[row], atol=1e-5)


def test_a_policy_that_sees_frames(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    backbone, encoder = GPTConfig(2, 2, 16), ImageConfig((4, 4, 4))
    config = DecisionTransformerConfig(K, backbone, encoder, WindowConfig(), squash=True)
    path = make_checkpoint(config, spec=Spec((4, 36, 36), 5, "discrete", 1, 100))
    with pytest.raises(UserError, match="no discrete actions; try --to onnx"):
        export(path, "transformers", tmp_path / "theirs", Reporter())
    file = export(path, "onnx", tmp_path / "policy.onnx", Reporter())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    policy = checkpoint.load(path).policy.eval()
    inputs = onnx_file._example(policy.spec, 40, K)
    (chosen,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    mask = torch.arange(K) < inputs.pop("lengths")[:, None]
    with torch.inference_mode():
        expected, _ = policy.act(Batch(**inputs, rewards=None, mask=mask))
    assert chosen.tolist() == expected.tolist()
    assert len(set(chosen.tolist())) > 1


def test_a_squashed_policy_is_not_written_without_its_tanh(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint(DecisionTransformerConfig(K, GPTConfig(2, 2, 16), squash=True))
    with pytest.raises(UserError, match="no tanh after its embeddings; try --to onnx"):
        export(path, "transformers", tmp_path / "theirs", Reporter())


def test_a_stochastic_head_is_written_as_its_mean(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint(DecisionTransformerConfig(K, GPTConfig(2, 2, 16), head="stochastic"))
    with pytest.raises(UserError, match="no stochastic head; try --to onnx"):
        export(path, "transformers", tmp_path / "theirs", Reporter())
    file = export(path, "onnx", tmp_path / "policy.onnx", Reporter())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    policy = checkpoint.load(path).policy.eval()
    inputs = onnx_file._example(policy.spec, 7, K)
    (chosen,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    mask = torch.arange(K) < inputs.pop("lengths")[:, None]
    with torch.inference_mode():
        expected, _ = policy.act(Batch(**inputs, rewards=None, mask=mask))
    np.testing.assert_allclose(chosen, expected, atol=1e-5)


class Cloning(torch.nn.Module):
    """Policy that acts on the newest observation only, like behaviour cloning.

    carried: its state; fixed: whether its code calls `len` on a tensor.
    """

    memory = "window"

    def __init__(self, spec: Spec, carried: object = None, fixed: bool = False) -> None:
        super().__init__()
        self.spec, self.carried, self.fixed = spec, carried, fixed
        self.head = torch.nn.Linear(spec.observation_shape[0], spec.action_size)

    def act(self, batch: Batch, state: object = None, rng: object = None) -> tuple:
        count = len(batch.lengths) if self.fixed else batch.lengths.shape[0]
        newest = batch.observations[torch.arange(count), batch.lengths - 1]
        return torch.tanh(self.head(newest)), self.carried


def test_a_policy_without_a_condition_has_no_such_input(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = checkpoint.load(make_checkpoint())
    spec = dataclasses.replace(loaded.policy.spec, condition_size=0)
    other = dataclasses.replace(loaded, policy=Cloning(spec))
    onnx_file.write(other, tmp_path / "bc.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "bc.onnx")
    names = [entry.name for entry in session.get_inputs()]
    assert not {"actions", "conditions"} & set(names)
    fed = {n: t.numpy() for n, t in onnx_file._example(spec, 3, 4).items()}
    (found,) = session.run(None, {name: fed[name] for name in names})
    newest = torch.as_tensor(fed["observations"][range(3), fed["lengths"] - 1])
    expected = other.policy.head(newest).tanh().detach()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_cannot_be_a_graph_is_one_line(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(make_checkpoint())
    carrying = dataclasses.replace(loaded, policy=Cloning(loaded.policy.spec, torch.zeros(1)))
    with pytest.raises(UserError, match=r"cannot be written as ONNX: .*carries a state"):
        onnx_file.write(carrying, tmp_path / "x.onnx")
    fixing = dataclasses.replace(loaded, policy=Cloning(loaded.policy.spec, fixed=True))
    with pytest.raises(UserError, match="the policy's code fixes the sizes"):
        onnx_file.write(fixing, tmp_path / "sizes.onnx")
    with pytest.raises(UserError, match=r"name ends in \.onnx"):
        export(loaded.path, "onnx", tmp_path / "x.bin", Reporter())
    remembers = make_checkpoint(DecisionTransformerConfig(K, LSTMConfig(1, 8)), name="lstm")
    with pytest.raises(UserError, match="remembers the whole episode"):
        export(remembers, "onnx", tmp_path / "y.onnx", Reporter())

    honest = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "onnxruntime":
            raise ModuleNotFoundError(name=name)
        return honest(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"onnxruntime is not installed; pip install"):
        export(loaded.path, "onnx", tmp_path / "x.onnx", Reporter())
    assert not (tmp_path / "x.onnx").exists()


def test_a_graph_that_acts_otherwise_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(make_checkpoint())
    small = dataclasses.replace(loaded, policy=Cloning(loaded.policy.spec))
    trace = onnx_file._trace

    def spoilt(acting: onnx_file.Acting, inputs: dict, where: Path) -> object:
        program = trace(copy.deepcopy(acting), inputs, where)
        with torch.no_grad():
            acting.policy.head.bias += 0.1
        return program

    monkeypatch.setattr(onnx_file, "_trace", spoilt)
    with pytest.raises(UserError, match="the ONNX graph's actions are off by"):
        onnx_file.write(small, tmp_path / "x.onnx")
