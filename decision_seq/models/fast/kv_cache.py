"""What a transformer keeps of the tokens it has read: keys and values, in rows that fork.

Rows that begin alike share what they have read: a prefix is kept once for all beams of a search, a
beam once for all its expansions. So the rows stand on levels. Those of the first are the prefixes;
`fork` lays a level on top, in which every row has become several; `keep` takes the rows that
matter and melts the levels above the prefixes into one.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

ROOM = 8  # tokens by which a level grows: the denser it lies, the sooner it is read


class Memory:
    """What levels lie in, used again when they are gone.

    Memory that is new to a process costs six times what is then written to it: the system hands it
    out page by page.
    """

    def __init__(self) -> None:
        self.free: list[Tensor] = []

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        """A copy, or what another process is given, has memory of its own."""
        return Memory, ()

    def take(self, count: int, like: Tensor) -> Tensor:
        """[count or more], of what is free the smallest that does."""
        kind = (like.dtype, like.device, torch.is_inference_mode_enabled())
        fitting = [
            part
            for part in self.free
            if part.numel() >= count and (part.dtype, part.device, part.is_inference()) == kind
        ]
        if fitting:
            found = min(fitting, key=Tensor.numel)
            self.free = [part for part in self.free if part is not found]
            return found
        self.free = self.free[1:]  # one that has become too small
        return like.new_empty(count + count // 4)

    def lend(self, borrower: object, storage: Tensor) -> None:
        """It is free again when the borrower is gone."""
        weakref.finalize(borrower, lambda: self.free.append(storage)).atexit = False


@dataclass(frozen=True)
class Shape:
    """Of a model's keys and values; like: of their type, on their device."""

    blocks: int
    heads: int
    size: int
    like: Tensor


class Level:
    """Keys and values of every block, [blocks, 2, heads, R, capacity, D / heads], and how many of
    the capacity are there."""

    def __init__(self, shape: Shape, rows: int, capacity: int, memory: Memory) -> None:
        self.shape, self.rows, self.capacity, self.memory = shape, rows, capacity, memory
        sizes = (shape.blocks, 2, shape.heads, rows, capacity, shape.size)
        storage = memory.take(math.prod(sizes), shape.like)
        memory.lend(self, storage)
        self.entries = storage[: math.prod(sizes)].view(sizes)
        self.length = 0
        self.padding: Tensor | None = None  # [R, length] True where a row had nothing to read

    def with_room(self, tokens: int) -> Level:
        """One that holds the same, and has room for so many more."""
        if self.length + tokens <= self.capacity:
            return self
        grown = Level(self.shape, self.rows, self.length + max(tokens, ROOM), self.memory)
        grown.entries[..., : self.length, :] = self.entries[..., : self.length, :]
        grown.length = self.length
        return grown

    def take(self, other: Level, rows: Tensor) -> None:
        """Behind what is there, what another holds for these rows."""
        end = self.length + other.length
        into = self.entries[..., self.length : end, :]
        torch.index_select(other.entries[..., : other.length, :], 3, rows, out=into)
        self.length = end

    def filled(self, block: int, length: int) -> tuple[Tensor, Tensor]:
        """keys, values [heads, R, length, D / heads]."""
        keys, values = self.entries[block, :, :, :, :length]
        return keys, values


class Cache:
    """count: tokens that each row has read, whether or not they are there to be looked at.

    shared: the rows of the first level stay, each with as many rows on it as every other, side by
    side: `keep` is not to break that. Otherwise the first level is melted with those above.
    """

    def __init__(
        self, shape: Shape, rows: int, shared: bool = True, memory: Memory | None = None
    ) -> None:
        self.shape, self.memory = shape, memory or Memory()
        self.levels = [Level(shape, rows, 0, self.memory)]
        self.count, self.shared = 0, shared

    @property
    def rows(self) -> int:
        return self.levels[-1].rows

    def fork(self, copies: int) -> None:
        """Every row becomes so many, side by side."""
        self.levels.append(Level(self.shape, self.rows * copies, 0, self.memory))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [R], in this order."""
        levels = self.levels[self.shared :]
        length = sum(level.length for level in levels)
        melted = Level(self.shape, len(rows), length + ROOM, self.memory)
        for level in levels:
            melted.take(level, rows // (self.rows // level.rows))
        self.levels[self.shared :] = [melted]

    def reserve(self, tokens: int) -> None:
        """Make room for so many more."""
        assert self.levels[-1].padding is None, "rows of unequal lengths have to fork first"
        self.levels[-1] = self.levels[-1].with_room(tokens)

    def attend(
        self, block: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None
    ) -> Tensor:
        """Take in the keys and values of new tokens, and look at all there are.

        query [heads, R, q, D / heads]; key, value [heads, R, k, D / heads], k of them being there
        to be looked at; visible [q, k]: which of the new ones each query may see, None for all.
        -> mixed values [heads, R, q, D / heads]
        """
        heads, rows, count, size = query.shape
        query = query * size**-0.5
        scores, values = [], []
        for level in self.levels:
            new = key.shape[2] if level is self.levels[-1] else 0
            if level.length + new == 0:  # forked just now
                continue
            kept = level.filled(block, level.length + new)
            if new:
                kept[0][:, :, level.length :], kept[1][:, :, level.length :] = key, value
            score = query.reshape(heads, level.rows, -1, size) @ kept[0].mT  # [h, n, R / n * q, l]
            if level.padding is not None:
                score = score.masked_fill(level.padding[:, None], -torch.inf)
            if new and visible is not None:
                score[..., level.length :].masked_fill_(~visible, -torch.inf)
            scores.append(score.view(heads, rows, count, -1))
            values.append(kept[1])
        weights = torch.cat(scores, -1).softmax(-1).split([s.shape[3] for s in scores], -1)
        mixed = [
            weight.reshape(heads, value.shape[1], -1, value.shape[2]) @ value
            for weight, value in zip(weights, values, strict=True)
        ]
        return torch.stack([part.view(heads, rows, count, size) for part in mixed]).sum(0)

    def advance(self, read: int, kept: int) -> None:
        """All blocks have taken in `read` tokens, of which `kept` are there to be looked at."""
        self.levels[-1].length += kept
        self.count += read
