"""Conversion of values in Gymnasium spaces to a store's arrays, a whole episode at once.

Observations follow the rule of `gymnasium.spaces.flatten`: the entries of a Dict are concatenated
in the order of the space's keys, those of a Tuple in its order, and a Discrete value is one-hot. A
Box that is the whole space retains its shape. Actions are those of `ActionSpace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decision_seq.envs import ActionSpace
from decision_seq.types import UserError


def observations(space: Any, values: Any) -> np.ndarray:
    """Observations [T, ...] of a Box, else [T, S]; UserError if the values do not fit the space."""
    if _kind(space) == "Box":
        array = _numbers(values, "observations")
        _require_shape(array, space, "observations")
        return array
    # one-hot entries are small integers and images are refused, so float32 holds every value
    return _flat(space, values, "observations").astype(np.float32, copy=False)


def actions(space: ActionSpace, values: Any) -> np.ndarray:
    """Actions [T, A] float32, or [T] int64 of choices, see `ActionSpace`."""
    return space.from_data(_numbers(values, "actions"), "actions")


def require_known(observation_space: Any, images: bool) -> None:
    """Raise UserError for an observation space that is not one of vectors of numbers.

    images: whether arrays of pixels are accepted; they are if they were stored without loss.
    """
    _require_vector(observation_space, "the observation space", images)


def keys(space: Any, prefix: str = "") -> list[str] | None:
    """The entries of a Dict in the order of concatenation, `outer/inner` if nested.

    None if the space is not a Dict.
    """
    if _kind(space) != "Dict":
        return None
    found: list[str] = []
    for key, entry in space.spaces.items():
        found += keys(entry, f"{prefix}{key}/") or [f"{prefix}{key}"]
    return found


def _require_vector(space: Any, name: str, images: bool) -> None:
    kind = _kind(space)
    entries: Sequence[tuple[Any, Any]] = ()
    if kind == "Dict":
        entries = list(space.spaces.items())
    elif kind == "Tuple":
        entries = list(enumerate(space.spaces))
    elif kind == "Box":
        if space.dtype == np.uint8 and len(space.shape) > 1 and not images:
            raise UserError(
                f"{name} is an image ({space.shape} uint8); only vectors of numbers are read"
            )
    elif kind not in ("Discrete", "MultiDiscrete", "MultiBinary"):
        raise UserError(f"{name} is {_named(space)}; only vectors of numbers are read")
    for key, entry in entries:
        _require_vector(entry, f"{name}'s entry {key!r}", images)


def _flat(space: Any, values: Any, name: str) -> np.ndarray:
    """All steps flattened by Gymnasium's rule, [T, S]."""
    kind = _kind(space)
    if kind in ("Dict", "Tuple"):
        entries = space.spaces.items() if kind == "Dict" else enumerate(space.spaces)
        parts = []
        for key, entry in entries:
            try:
                inner = values[key]
            except (KeyError, IndexError, TypeError) as error:
                raise UserError(f"{name} lack the entry {key!r} of their space") from error
            parts.append(_flat(entry, inner, f"{name}[{key!r}]"))
        lengths = {len(part) for part in parts}
        if len(lengths) != 1:
            raise UserError(f"{name}: entries of different lengths {sorted(lengths)}")
        return np.concatenate(parts, 1)
    array = _numbers(values, name)
    if kind == "Discrete":
        return _one_hot(_one_a_step(array, name), int(space.start), int(space.n), name)
    _require_shape(array, space, name)
    array = array.reshape(len(array), -1)
    if kind != "MultiDiscrete":
        return array
    choices = zip(array.T, space.start.ravel(), space.nvec.ravel(), strict=True)
    return np.concatenate([_one_hot(a, int(start), int(n), name) for a, start, n in choices], 1)


def _one_a_step(array: np.ndarray, name: str) -> np.ndarray:
    if array.size != len(array):
        raise UserError(f"{name} have shape {array.shape[1:]}; their space is one choice a step")
    return array.reshape(-1)


def _one_hot(array: np.ndarray, start: int, count: int, name: str) -> np.ndarray:
    _require_range(array, start, count, name)
    return np.eye(count, dtype=np.float32)[array.astype(np.int64) - start]


def _require_range(array: np.ndarray, start: int, count: int, name: str) -> None:
    if array.dtype.kind not in "iub":
        raise UserError(f"{name} are {array.dtype}; their space has {count} choices")
    if len(array) and not (start <= array.min() and array.max() < start + count):
        raise UserError(
            f"{name} run from {array.min()} to {array.max()}; their space has {count} choices"
            f" from {start}"
        )


def _require_shape(array: np.ndarray, space: Any, name: str) -> None:
    if array.shape[1:] != space.shape:
        raise UserError(f"{name} have shape {array.shape[1:]}; their space has {space.shape}")


def _numbers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise UserError(f"{name} are {array.dtype}, not rows of numbers")
    return array


def _kind(space: Any) -> str:
    return type(space).__name__


def _named(space: Any) -> str:
    """The space as text of at most 60 characters, else shortened to `Text(...)`."""
    text = " ".join(str(space).split())
    return text if len(text) <= 60 else f"{_kind(space)}(...)"
