"""KV cache for beam search: keys and values of the tokens read so far, in rows that fork.

Plain form: the backbone's `forward` over all tokens again, for every new token. Values are equal up
to rounding (planning needs no gradient). A prefix is stored once for all its beams, and a beam once
for all its expansions, in a stack of levels: the first level's rows are the prefixes, `fork` adds a
level whose rows are copies, `keep` gathers the surviving rows and merges all levels but the prefix.

Gain: experiments/results/speed.md has a plan of horizon 5 for one environment 22.1 times as fast as
without the cache, one of horizon 15 17.7 times (`decision-seq bench plan`, AVX-512, 2 threads).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decision_seq.models.layers import Block

# Tokens by which a level grows; few, because unused room between rows slows reads down: with 64 the
# plans of `decision-seq bench plan` take 1.07 to 1.09 times as long (2026-11-28, AVX2, 1 thread).
ROOM = 8


@dataclass(frozen=True)
class CacheShape:
    """The sizes of a model's keys and values; like: a tensor of their type on their device."""

    blocks: int
    heads: int
    size: int  # D / H
    like: Tensor


class Level:
    """Keys and values of every block, [blocks, 2, H, R, capacity, D / H]; `length` are filled."""

    def __init__(self, shape: CacheShape, rows: int, capacity: int) -> None:
        self.shape, self.rows, self.capacity = shape, rows, capacity
        sizes = (shape.blocks, 2, shape.heads, rows, capacity, shape.size)
        self.entries = shape.like.new_empty(sizes)
        self.length = 0
        self.padding: Tensor | None = None  # [R, length], True = padding

    def with_room(self, tokens: int) -> Level:
        """This level, or a larger copy, with room for so many more tokens."""
        if self.length + tokens <= self.capacity:
            return self
        grown = Level(self.shape, self.rows, self.length + max(tokens, ROOM))
        grown.entries[..., : self.length, :] = self.entries[..., : self.length, :]
        grown.length = self.length
        return grown

    def append(self, other: Level, rows: Tensor) -> None:
        """Append the tokens of these rows [R] of another level."""
        end = self.length + other.length
        into = self.entries[..., self.length : end, :]
        torch.index_select(other.entries[..., : other.length, :], 3, rows, out=into)
        self.length = end

    def filled(self, block: int, length: int) -> tuple[Tensor, Tensor]:
        """A block's keys and values, [H, R, length, D / H] each."""
        keys, values = self.entries[block, :, :, :, :length]
        return keys, values


class Cache:
    """A stack of levels. count: tokens read by each row, those that no query attends to included.

    shared: `keep` retains the first level, which requires that every row of it has equally many
    surviving rows, next to each other. Otherwise `keep` merges the first level, too.
    """

    def __init__(self, shape: CacheShape, rows: int, shared: bool = True) -> None:
        self.shape = shape
        self.levels = [Level(shape, rows, 0)]
        self.count, self.shared = 0, shared

    @property
    def rows(self) -> int:
        return self.levels[-1].rows

    def fork(self, copies: int) -> None:
        """Copy every row so many times; the copies of a row are next to each other."""
        self.levels.append(Level(self.shape, self.rows * copies, 0))

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows [R], in this order."""
        levels = self.levels[self.shared :]
        length = sum(level.length for level in levels)
        merged = Level(self.shape, len(rows), length + ROOM)
        for level in levels:
            merged.append(level, rows // (self.rows // level.rows))
        self.levels[self.shared :] = [merged]

    def reserve(self, tokens: int) -> None:
        """Make room for so many more tokens."""
        assert self.levels[-1].padding is None, "rows of unequal lengths have to fork first"
        self.levels[-1] = self.levels[-1].with_room(tokens)

    def attend(
        self, block: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None
    ) -> Tensor:
        """Store the keys and values of new tokens, then attend to all that are stored.

        query [H, R, q, D / H]; key, value [H, R, k, D / H] of the k new tokens that may be attended
        to; visible: their mask [q, k], True = may attend, None = all -> [H, R, q, D / H]
        """
        heads, rows, count, size = query.shape
        query = query * size**-0.5
        scores, values = [], []
        for level in self.levels:
            new = key.shape[2] if level is self.levels[-1] else 0
            if level.length + new == 0:  # no token since the fork
                continue
            stored = level.filled(block, level.length + new)  # [H, n, l, D / H] each
            if new:
                stored[0][:, :, level.length :], stored[1][:, :, level.length :] = key, value
            # Rows that share a row of the level share one product: [H, n, R / n * q, l].
            score = query.reshape(heads, level.rows, -1, size) @ stored[0].mT
            if level.padding is not None:
                score = score.masked_fill(level.padding[:, None], -torch.inf)
            if new and visible is not None:
                score[..., level.length :].masked_fill_(~visible, -torch.inf)
            scores.append(score.view(heads, rows, count, -1))  # [H, R, q, l]
            values.append(stored[1])
        weights = torch.cat(scores, -1).softmax(-1).split([s.shape[3] for s in scores], -1)
        mixed = [
            weight.reshape(heads, value.shape[1], -1, value.shape[2]) @ value
            for weight, value in zip(weights, values, strict=True)
        ]  # [H, n, R / n * q, D / H] each
        return torch.stack([part.view(heads, rows, count, size) for part in mixed]).sum(0)

    def advance(self, read: int, stored: int) -> None:
        """Count `read` tokens, of which all blocks have stored `stored`."""
        self.levels[-1].length += stored
        self.count += read


def extend_block(
    block: Block,
    tokens: Tensor,
    cache: Cache,
    index: int,
    stored: list[int],
    visible: Tensor | None,
) -> Tensor:
    """`Block.forward` for new tokens only, after those in the cache: [R, q, D] -> [R, q, D].

    index: of the block; stored: the k of the q new tokens that may be attended to; visible: [q, k].
    """
    attention = block.attention
    projected = attention.query_key_value(block.attention_norm(tokens))  # [R, q, 3 D]
    projected = projected.unflatten(2, (3, attention.heads, -1))
    query, key, value = projected.permute(2, 3, 0, 1, 4)  # [H, R, q, D / H] each
    if len(stored) < tokens.shape[1]:
        key, value = key[:, :, stored], value[:, :, stored]  # [H, R, k, D / H]
    mixed = cache.attend(index, query, key, value, visible)  # [H, R, q, D / H]
    return block.after_attention(tokens, attention.output(mixed.permute(1, 2, 0, 3).flatten(2)))
