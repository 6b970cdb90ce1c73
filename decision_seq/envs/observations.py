"""One rule for observations, in data and in environments: every observation is one vector.

The exception are stacks of frames, [stack, H, W] uint8, which Atari's environments show. All other
spaces become vectors by the rule of `gymnasium.spaces.flatten`: the entries of a Dict in the order
of the space's keys, those of a Tuple in its order, a Discrete value as one-hot, an array of any
shape (a matrix, an image) row by row. Text entries are left out. Images of bytes that are the
whole observation stay bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from decision_seq.types import UserError

MOST_CHOICES = 4096  # of a Discrete entry, which becomes as many numbers
MOST_NUMBERS = 2**22  # of one observation
MOST_BYTES = 2**31  # of the one-hot vectors of an episode
MOST_DEPTH = 16  # of Dict and Tuple spaces within each other
ARRAYS = ("Box", "MultiBinary", "MultiDiscrete")


def kind(space: Any) -> str:
    """The space's type, such as `Box`."""
    return type(space).__name__


def named(space: Any) -> str:
    """The space as text of at most 60 characters, else shortened to `Text(...)`."""
    if kind(space) in ("Dict", "Tuple") or getattr(space, "shape", None) not in (None, ()):
        return f"{kind(space)}(...)"  # its text may be of any length
    text = " ".join(str(space).split())
    return text if len(text) <= 60 else f"{kind(space)}(...)"


@dataclass(frozen=True)
class Leaf:
    """One entry of an observation that is not nested further."""

    path: tuple[Any, ...]
    """Keys and indices that lead to it."""
    shape: tuple[int, ...]
    """Shape of its values."""
    starts: tuple[int, ...] = ()
    """First choice of each of its one-hot entries; empty for plain numbers."""
    counts: tuple[int, ...] = ()
    """Number of choices of each one-hot entry; empty for plain numbers."""

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return sum(self.counts) if self.counts else int(np.prod(self.shape, dtype=np.int64))

    def of(self, values: Any, name: str) -> Any:
        """Its values within those of the whole space."""
        for key in self.path:
            name = f"{name}[{key!r}]"
            try:
                values = values[key]
            except (KeyError, IndexError, TypeError) as error:
                raise UserError(f"{name.rpartition('[')[0]} lack the entry {key!r}") from error
        return values

    def rows(self, values: Any, name: str) -> np.ndarray:
        """Vectors [T, size] of its values [T, ...]; UserError if they do not fit the space."""
        for key in self.path:
            name = f"{name}[{key!r}]"
        array = numbers(values, name)
        if self.counts and self.shape == () and array.size == len(array):
            array = array.reshape(-1)
        if array.shape[1:] != self.shape:
            raise UserError(f"{name} have shape {array.shape[1:]}; their space has {self.shape}")
        array = array.reshape(len(array), math.prod(self.shape))
        if not self.counts:
            return array
        return one_hot(array, self.starts, self.counts, name)


class Vectors:
    """The layout of a space's observations as vectors; UserError if it has none.

    name: the space in messages. Nothing is allocated before the sizes are known to be plausible.
    """

    def __init__(self, space: Any, name: str = "the observation space") -> None:
        self.left_out: list[str] = []  # Text entries
        self.leaves = tuple(self._leaves(space, name, ()))
        self.whole = len(self.leaves) == 1 and not self.leaves[0].path and kind(space) == "Box"
        self.size = sum(leaf.size for leaf in self.leaves)
        self.dtype = space.dtype if self.whole else np.dtype(np.float32)
        if not self.leaves:
            raise UserError(f"{name} is {named(space)}; only numbers are read")
        if not 0 < self.size <= MOST_NUMBERS:
            raise UserError(
                f"{name} holds {self.size:,} numbers; 1 to {MOST_NUMBERS:,} can be read"
            )

    def _leaves(self, space: Any, name: str, path: tuple[Any, ...]) -> Iterator[Leaf]:
        if len(path) > MOST_DEPTH:
            raise UserError(f"{name} is nested more than {MOST_DEPTH} deep")
        what = kind(space)
        if what in ("Dict", "Tuple"):
            entries = space.spaces.items() if what == "Dict" else enumerate(space.spaces)
            for key, entry in entries:
                inner = name if name.endswith(")") else f"{name}'s entry {key!r}"
                yield from self._leaves(entry, inner, (*path, key))
        elif what == "Text" and path:
            self.left_out.append("/".join(map(str, path)))
        elif what == "Discrete":
            yield Leaf(path, (), *_choices([space.start], [space.n], name))
        elif what == "MultiDiscrete":
            found = _choices(space.start.ravel(), space.nvec.ravel(), name)
            yield Leaf(path, tuple(space.shape), *found)
        elif what in ARRAYS:
            yield Leaf(path, tuple(space.shape))
        else:
            raise UserError(f"{name} is {named(space)}; only vectors of numbers are read")

    def rows(self, values: Any, name: str = "observations") -> np.ndarray:
        """Vectors [T, S] of a whole episode's observations, by entry [T, ...]."""
        parts = [leaf.rows(leaf.of(values, name), name) for leaf in self.leaves]
        if self.whole:
            return parts[0]
        lengths = {len(part) for part in parts}
        if len(lengths) != 1:
            raise UserError(f"{name}: entries of different lengths {sorted(lengths)}")
        # one-hot entries and bytes are small integers, so float32 holds every value
        return np.concatenate(parts, 1).astype(np.float32, copy=False)

    def row(self, value: Any) -> np.ndarray:
        """The vector [S] of one observation."""
        parts = []
        for leaf in self.leaves:
            array = np.asarray(leaf.of(value, "the observation"))
            parts.append(leaf.rows(array[None], "the observation")[0])
        return parts[0] if self.whole else np.concatenate(parts)


def keys(space: Any, prefix: str = "") -> list[str] | None:
    """The entries of a Dict in the order of the vector, `outer/inner` if nested.

    None if the space is not a Dict.
    """
    if kind(space) != "Dict":
        return None
    found: list[str] = []
    for key, entry in space.spaces.items():
        if kind(entry) != "Text":
            found += keys(entry, f"{prefix}{key}/") or [f"{prefix}{key}"]
    return found


def _choices(starts: Any, counts: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    total = sum(map(int, counts))
    if total > MOST_CHOICES:
        raise UserError(
            f"{name} has {total:,} choices, each of which would be one number; {MOST_CHOICES:,} at"
            " most are read"
        )
    return tuple(map(int, starts)), tuple(map(int, counts))


def numbers(values: Any, name: str) -> np.ndarray:
    """An array of rows of numbers; UserError for anything else, such as jagged rows."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UserError(f"{name} are rows of different lengths") from error
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise UserError(f"{name} are {array.dtype}, not rows of numbers")
    return array


def one_hot(
    array: np.ndarray, starts: tuple[int, ...], counts: tuple[int, ...], name: str
) -> np.ndarray:
    """One-hot rows [T, sum(counts)] float32 of choices [T, len(counts)]."""
    size = 4 * len(array) * sum(counts)
    if size > MOST_BYTES:
        raise UserError(
            f"{name}: {len(array):,} steps of {sum(counts):,} choices would take"
            f" {size / 1e9:.1f} GB as one-hot vectors; save fewer choices or shorter episodes"
        )
    found = np.zeros((len(array), sum(counts)), np.float32)
    rows, first = np.arange(len(array)), 0
    for column, start, count in zip(array.T, starts, counts, strict=True):
        require_range(column, start, count, name)
        found[rows, first + column.astype(np.int64) - start] = 1
        first += count
    return found


def require_range(array: np.ndarray, start: int, count: int, name: str) -> None:
    """Raise UserError unless the array holds choices from `start` to `start + count - 1`."""
    if array.dtype.kind not in "iub":
        raise UserError(f"{name} are {array.dtype}; their space has {count} choices")
    if len(array) and not (start <= array.min() and array.max() < start + count):
        raise UserError(
            f"{name} run from {array.min()} to {array.max()}; their space has {count} choices"
            f" from {start}"
        )
