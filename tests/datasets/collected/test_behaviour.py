from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from decision_seq.datasets.collected.behaviour import GaussianPolicy, UniformPolicy
from decision_seq.types import UserError

LAYERS = {"fc0": (16, 11), "fc1": (16, 16), "last_fc": (3, 16), "last_fc_log_std": (3, 16)}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {f"{k}/weight": s for k, s in LAYERS.items()} | {
        f"{k}/bias": s[:1] for k, s in LAYERS.items()
    }
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def in_hdf5(arrays: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """Write the arrays as D4RL's v2 files store their policy."""
    path = tmp_path / "hopper_medium-v2.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"metadata/policy/{name}"] = array
        file["metadata/policy/nonlinearity"] = "relu"
    return path


def test_both_kinds_of_file_hold_the_same_policy(
    arrays: dict[str, np.ndarray], in_hdf5: Path, tmp_path: Path
) -> None:
    other = tmp_path / "actor.safetensors"
    save_file(arrays, other)
    observations, noise = np.random.default_rng(1).normal(size=(2, 5, 11))
    first = GaussianPolicy.load(in_hdf5).act(observations, noise[:, :3])
    np.testing.assert_array_equal(first, GaussianPolicy.load(other).act(observations, noise[:, :3]))
    # the formula written out, one row at a time
    for row, action in zip(range(5), first, strict=True):
        hidden = observations[row]
        for layer in ("fc0", "fc1"):
            hidden = np.maximum(arrays[f"{layer}/weight"] @ hidden + arrays[f"{layer}/bias"], 0)
        mean = arrays["last_fc/weight"] @ hidden + arrays["last_fc/bias"]
        log_std = arrays["last_fc_log_std/weight"] @ hidden + arrays["last_fc_log_std/bias"]
        expected = np.tanh(mean + np.exp(np.clip(log_std, -20, 2)) * noise[row, :3])
        np.testing.assert_allclose(action, expected, atol=1e-5)


def test_a_clipped_policy_is_clipped(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "ppo.safetensors"
    save_file(arrays, path, metadata={"squash": "clip"})
    actions = GaussianPolicy.load(path).act(np.ones((50, 11)) * 9, np.zeros((50, 3)))
    assert np.abs(actions).max() == 1.0
    save_file(arrays, path, metadata={"squash": "fold"})
    with pytest.raises(UserError, match="unknown squash 'fold'"):
        GaussianPolicy.load(path)


def test_uniform_actions_are_uniform() -> None:
    noise = np.random.default_rng(0).standard_normal((20_000, 3))
    actions = UniformPolicy().act(np.zeros((20_000, 11)), noise)
    counts, _ = np.histogram(actions, 20, (-1, 1))
    assert ((counts - 3000) ** 2 / 3000).sum() < 19 + 5 * 38**0.5


@pytest.mark.parametrize("kind", ["hdf5", "safetensors"])
def test_a_file_without_a_policy_is_named(
    kind: str, tmp_path: Path, write_d4rl: Callable[..., Path]
) -> None:
    without = write_d4rl() if kind == "hdf5" else tmp_path / "x.safetensors"
    if kind == "safetensors":
        save_file({"other": np.zeros(3)}, without)
    with pytest.raises(UserError, match=without.name):
        GaussianPolicy.load(without)
    without.write_bytes(b"\0" * 10)
    with pytest.raises(UserError, match=without.name):
        GaussianPolicy.load(without)
