"""What a transformer keeps of the tokens it has read: keys and values, in rows that fork.

Rows that begin alike share what they have read: a prefix is kept once for all beams of a search, a
beam once for all its expansions. So the rows stand on levels. Those of the first are the prefixes;
`fork` lays a level on top, in which every row has become several; `keep` takes the rows that
matter and melts the levels above the prefixes into one.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROOM = 8  # tokens by which a level grows: the denser it lies, the sooner it is read


class Level:
    """Keys and values of every block, [blocks, 2, heads, R, capacity, D / heads], and how many of
    the capacity are there."""

    def __init__(self, entries: Tensor, length: int = 0) -> None:
        self.entries, self.length = entries, length
        self.padding: Tensor | None = None  # [R, length] True where a row had nothing to read

    @property
    def rows(self) -> int:
        return self.entries.shape[3]

    def reserve(self, tokens: int) -> None:
        """Make room for so many more."""
        *outer, capacity, size = self.entries.shape
        if self.length + tokens > capacity:
            grown = self.entries.new_empty(*outer, self.length + max(tokens, ROOM), size)
            grown[..., : self.length, :] = self.entries[..., : self.length, :]
            self.entries = grown

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
        self, blocks: int, heads: int, size: int, rows: int, like: Tensor, shared: bool = True
    ) -> None:
        self.levels = [Level(like.new_empty(blocks, 2, heads, rows, 0, size))]
        self.count, self.shared = 0, shared

    @property
    def rows(self) -> int:
        return self.levels[-1].rows

    def fork(self, copies: int) -> None:
        """Every row becomes so many, side by side."""
        blocks, both, heads, rows, _, size = self.levels[-1].entries.shape
        entries = self.levels[-1].entries
        self.levels.append(Level(entries.new_empty(blocks, both, heads, rows * copies, 0, size)))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [R], in this order."""
        base, *upper = self.levels[self.shared :]
        base.reserve(sum(level.length for level in upper))
        melted = Level(self._taken(base, rows, base.entries.shape[4]), base.length)
        for level in upper:
            end = melted.length + level.length
            melted.entries[..., melted.length : end, :] = self._taken(level, rows, level.length)
            melted.length = end
        self.levels[self.shared :] = [melted]

    def _taken(self, level: Level, rows: Tensor, length: int) -> Tensor:
        """What a level holds for these rows of the topmost, up to `length` tokens."""
        parents = rows // (self.rows // level.rows)
        return level.entries[..., :length, :].index_select(3, parents)

    def reserve(self, tokens: int) -> None:
        """Make room for so many more."""
        self.levels[-1].reserve(tokens)

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
