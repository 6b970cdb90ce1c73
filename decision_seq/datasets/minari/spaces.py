"""Spaces of Minari's metadata, read as data, and actions in them.

Minari's own reader trusts the metadata: it allocates what they promise and makes an environment
where they lack a space. Here sizes and depth are checked first, and nothing is made but spaces.
Observations become arrays by `envs.observations`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from decision_seq import envs
from decision_seq.envs.observations import (
    MOST_DEPTH,
    MOST_NUMBERS,
)
from decision_seq.types import UserError

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = ("float16", "float32", "float64", "bool", *INTEGERS)
MOST_COUNT = 2**53  # of choices, or of letters


class Spaces(NamedTuple):
    """The spaces of a dataset."""

    observations: Any
    actions: Any


def of_dataset(metadata: dict[str, Any], env_id: str | None, episodes: Any) -> Spaces:
    """The spaces in the metadata, else those that the data show, else the environment's.

    env_id: the environment that the metadata name, None for none; it is made only if it is
    registered here, within the limits of `envs.named`. episodes: those of `storage`. UserError
    where a space is not known or not readable.
    """

    def space(of: str) -> Any:
        given = metadata.get(f"{of}_space")
        if given is not None:
            return parse(given, f"the {of} space")
        shown = _of_arrays(episodes, f"{of}s")
        return _of_environment(env_id, f"{of}_space") if shown is None else shown

    return Spaces(space("observation"), space("action"))


def _of_arrays(episodes: Any, name: str) -> Any:
    """An unbounded Box for plain arrays of floating-point numbers, [T, ...]; None for others.

    Whole numbers may be choices, and their number is not in the data.
    """
    from gymnasium import spaces

    found = episodes.plain(name)
    kinds = {(one.shape[1:], one.dtype) for one in found or ()}
    if len(kinds) != 1:
        return None
    ((shape, dtype),) = kinds
    if dtype.kind != "f" or not shape:
        return None
    return spaces.Box(-np.inf, np.inf, _shape(list(shape), f"its {name}"), dtype.type)


def _of_environment(env_id: str | None, name: str) -> Any:
    """A space of the environment; UserError unless it can be made here."""
    lacking = f"the metadata lack {name}"
    if env_id is None:
        raise UserError(f"{lacking}, and name no environment; write the dataset again with it")
    try:
        return getattr(envs.spaces(env_id), name)
    except UserError as error:
        raise UserError(f"{lacking}, and their environment cannot tell it: {error}") from error


def parse(text: Any, name: str) -> Any:
    """The Gymnasium space that Minari serialised; UserError where it is malformed or too large.

    name: the space in messages.
    """
    try:
        tree = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{name} is no JSON ({str(error)[:100]}); fetch the dataset again"
        ) from error
    return _space(tree, name, 0)


def _space(tree: Any, name: str, depth: int) -> Any:
    if depth > MOST_DEPTH:
        raise UserError(f"{name} is nested more than {MOST_DEPTH} deep")
    what = tree.get("type") if isinstance(tree, dict) else None
    parser = PARSERS.get(what) if isinstance(what, str) else None
    if parser is None:
        raise UserError(f"{name} is of the type {str(what)[:60]!r}; {', '.join(PARSERS)} are known")
    try:
        return parser(tree, name, depth)
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        AssertionError,
    ) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{name} is no {what} ({reason}); fetch the dataset again") from error


def _dict(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    entries = tree["subspaces"].items()
    found = {key: _space(entry, f"{name}[{key!r}]", depth + 1) for key, entry in entries}
    # In the file's order, which is the environment's. Of a plain dict, the keys would be sorted.
    return spaces.Dict(OrderedDict(found))


def _tuple(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    parts = enumerate(_list(tree["subspaces"]))
    return spaces.Tuple([_space(part, f"{name}[{i}]", depth + 1) for i, part in parts])


def _box(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    shape, dtype = _shape(tree["shape"], name), _dtype(tree["dtype"])
    low, high = (np.array(tree[key], dtype) for key in ("low", "high"))
    if low.shape not in ((), shape) or high.shape not in ((), shape):
        raise ValueError(f"bounds of shapes {low.shape} and {high.shape} for the shape {shape}")
    low, high = (np.broadcast_to(bound, shape).copy() for bound in (low, high))
    return spaces.Box(low, high, shape, dtype)


def _discrete(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    start = tree.get("start", 0)
    if type(start) is not int or abs(start) > MOST_COUNT:
        raise ValueError(f"start is {str(start)[:60]!r}")
    return spaces.Discrete(_count(tree["n"]), start=start)


def _multi_discrete(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    counts = _whole(tree["nvec"])
    starts = _whole(tree["start"]) if tree.get("start") is not None else np.zeros_like(counts)
    if starts.shape != counts.shape or counts.size == 0 or counts.min() < 1:
        raise ValueError("nvec and start do not fit each other")
    if max(counts.max(), np.abs(starts).max()) > MOST_COUNT:
        raise ValueError("nvec or start is out of bounds")
    return spaces.MultiDiscrete(counts, start=starts)


def _multi_binary(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    size = tree["n"]
    shape = _shape(size if isinstance(size, list) else [size], name)
    return spaces.MultiBinary(list(shape) if isinstance(size, list) else shape[0])


def _text(tree: dict[str, Any], name: str, depth: int) -> Any:
    from gymnasium import spaces

    return spaces.Text(_count(tree["max_length"]))


PARSERS = {
    "Box": _box,
    "Dict": _dict,
    "Discrete": _discrete,
    "MultiBinary": _multi_binary,
    "MultiDiscrete": _multi_discrete,
    "Text": _text,
    "Tuple": _tuple,
}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:60]!r} is no list")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST_COUNT:
        raise ValueError(f"{str(value)[:60]!r} is no count")
    return value


def _shape(value: Any, name: str) -> tuple[int, ...]:
    """A shape whose product is checked in Python's unbounded integers, before any allocation."""
    total = 1
    for size in _list(value):
        total *= _count(size)
        if total > MOST_NUMBERS or len(value) > MOST_DEPTH:
            raise UserError(f"{name} is too large; {MOST_NUMBERS:,} numbers at most are read")
    return tuple(value)


def _dtype(value: Any) -> np.dtype:
    if value not in DTYPES:
        raise ValueError(f"dtype is {str(value)[:60]!r}")
    return np.dtype(value)


def _whole(value: Any) -> np.ndarray:
    array = np.array(value)
    if array.dtype.kind not in "iu" or array.size > MOST_NUMBERS:
        raise ValueError(f"{array.dtype} are no whole numbers")
    return array.astype(np.int64)
