"""Behaviour policies: the policies that collect data.

D4RL's v2 gym files contain the SAC policy that collected them (`metadata/policy`): two ReLU layers
and a tanh-squashed diagonal Gaussian. The bundled policies have the same layers, so one class reads
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from decision_seq import tensor_files
from decision_seq.datasets import hdf5_links
from decision_seq.datasets.store.source_files import sha256
from decision_seq.reading import Unreadable, open_file
from decision_seq.types import UserError


class Actor(Protocol):
    """A policy that chooses actions; `collection.collect` draws the noise."""

    @property
    def description(self) -> str:
        """Description of the policy for a store's source."""
        ...

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Observation and action size of the policy's environment; None for any environment."""

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """observations [N, S], standard normal noise [N, A] -> actions [N, A] in [-1, 1].

        For a discrete action of A choices, the index of the largest number is used.
        """
        ...


def _tanh(actions: np.ndarray) -> np.ndarray:
    return np.tanh(actions)


def _clip(actions: np.ndarray) -> np.ndarray:
    return np.clip(actions, -1, 1)


# Maps from a Gaussian sample to an action in [-1, 1]: SAC's, and that of PPO's environments.
SQUASHES = {"tanh": _tanh, "clip": _clip}


@dataclass(frozen=True)
class GaussianPolicy:
    """Gaussian policy: squash(mean(s) + std(s) * noise), with two hidden ReLU layers."""

    weights: dict[str, tuple[np.ndarray, np.ndarray]]
    """Layer -> (weight [in, out], bias [out])."""
    squash: str
    """A key of SQUASHES."""
    description: str
    """Description of the policy for a store's source."""

    LAYERS = ("fc0", "fc1", "last_fc", "last_fc_log_std")

    @classmethod
    def load(cls, path: Path) -> GaussianPolicy:
        """Load from a D4RL v2 HDF5 file or a .safetensors actor; UserError if it holds none."""
        path = Path(path)
        try:
            open_file(path).close()
        except Unreadable as error:
            raise UserError(f"policy file {error}") from error
        read = _safetensors_arrays if path.suffix == ".safetensors" else _hdf5_arrays
        arrays, squash = read(path, cls.LAYERS)
        if squash not in SQUASHES:
            raise UserError(f"policy file {path}: unknown squash {squash!r}")
        weights = {}
        chain = {"fc0": "fc1", "fc1": "last_fc"}
        for layer, (weight, bias) in arrays.items():
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise UserError(
                    f"policy file {path}: {layer} has shapes {weight.shape} and {bias.shape}"
                )
            follows = arrays[chain.get(layer, layer)][0]
            if layer in chain and follows.shape[1:] != weight.shape[:1]:
                raise UserError(f"policy file {path}: the layers after {layer} do not fit it")
            if not np.isfinite(weight).all() or not np.isfinite(bias).all():
                raise UserError(f"policy file {path}: {layer} holds NaN or infinity")
            weights[layer] = (np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32))
        if weights["last_fc"][0].shape != weights["last_fc_log_std"][0].shape:
            raise UserError(f"policy file {path}: last_fc and last_fc_log_std differ in shape")
        return cls(weights, squash, f"policy {path.name}, sha256 {sha256(path)[:12]}")

    @property
    def sizes(self) -> tuple[int, int]:
        """Observation and action size."""
        return self.weights["fc0"][0].shape[0], self.weights["last_fc"][0].shape[1]

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        hidden = observations.astype(np.float32)
        for layer in ("fc0", "fc1"):
            weight, bias = self.weights[layer]
            hidden = np.maximum(hidden @ weight + bias, 0)
        mean, log_std = (
            hidden @ weight + bias
            for weight, bias in (self.weights["last_fc"], self.weights["last_fc_log_std"])
        )
        # rlkit, which trained D4RL's policies, has these bounds.
        std = np.exp(np.clip(log_std, -20, 2))
        return SQUASHES[self.squash](mean + std * noise.astype(np.float32))


@dataclass(frozen=True)
class UniformPolicy:
    """Random policy: actions uniform in [-1, 1], or uniform among the choices."""

    description: str = "uniformly random actions"
    """Description of the policy for a store's source."""
    sizes: None = None
    """None: it acts in any environment."""

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr

        return (2 * ndtr(noise) - 1).astype(np.float32)


def load_actor(name: str) -> Actor:
    """The policy of a name: `uniform`, or the path of a policy file."""
    return UniformPolicy() if name == "uniform" else GaussianPolicy.load(Path(name))


MOST_WEIGHTS = 16 << 20  # bytes of weights that are read however few are stored
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def _hdf5_arrays(path: Path, layers: tuple[str, ...]) -> tuple[Arrays, str]:
    import h5py

    try:
        with h5py.File(path) as file:
            names = [f"metadata/policy/{n}/{part}" for n in layers for part in ("weight", "bias")]
            found = {name: hdf5_links.dataset(file, name) for name in names}
            stored = hdf5_links.stored_bytes(found.values(), path.stat().st_size)
            if sum(column.nbytes for column in found.values()) > max(MOST_WEIGHTS, 8 * stored):
                raise UserError("it promises weights that it does not hold")
            for name, column in found.items():
                _require_floats(name, column)
            weights = [found[name][:] for name in names]
            pairs = zip(weights[::2], weights[1::2], strict=True)
            return dict(zip(layers, pairs, strict=True)), "tanh"
    except UserError as error:
        raise UserError(f"policy file {path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} carries no behaviour policy (metadata/policy)") from error
    except OSError as error:
        raise UserError(f"policy file {path} is no HDF5 file, or is cut short") from error


def _require_floats(name: str, array: Any) -> None:
    """UserError unless an array holds floats that NumPy has: no float8, no bfloat16."""
    if array.dtype.kind != "f" or array.ndim not in (1, 2):
        raise UserError(f"{name} is {array.dtype} {[*array.shape]}; save it as float32")


def _safetensors_arrays(path: Path, layers: tuple[str, ...]) -> tuple[Arrays, str]:
    from safetensors import SafetensorError, safe_open

    tensor_files.shapes(path)
    try:
        with safe_open(path, "np") as file:
            get = file.get_tensor
            arrays = {name: (get(f"{name}/weight"), get(f"{name}/bias")) for name in layers}
            for name, (weight, bias) in arrays.items():
                _require_floats(f"{name}/weight", weight)
                _require_floats(f"{name}/bias", bias)
            return arrays, (file.metadata() or {}).get("squash", "tanh")
    except UserError as error:
        raise UserError(f"policy file {path}: {error}") from error
    except (AttributeError, TypeError) as error:  # a kind of number that NumPy does not have
        raise UserError(f"policy file {path} holds other numbers than float32 ({error})") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"policy file {path} holds no Gaussian actor ({error})") from error
