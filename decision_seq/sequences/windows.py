"""Samplers, which choose the windows of an update's batch, and the gathering of those windows.

A sampler is a pure function of the update's number and carries no state. A resumed run and a run on
another number of processes therefore read the same data in the same order. Every rank takes its own
part.

To add one: a class here, and its line in `SAMPLERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.types import Batch

# Each separates a stream of random numbers from others with the same seed.
_STREAM, _ORDERS = 0x5A3B1E, 0x5E6
MOST_ORDERED = 100_000_000  # largest number of episodes times rows in the orders of `Segments`


@dataclass(frozen=True)
class Pool:
    """The windows that a sampler draws from."""

    offsets: np.ndarray
    """Offsets of the store's episodes, [E + 1]."""
    length: int
    """Steps in a window."""
    episodes: np.ndarray | None = None
    """Whether each episode is drawn from, [E] bool; None for all."""
    overlap: int = 0
    """Steps that a segment shares with the segment before it: those of the burn-in."""
    weights: np.ndarray | None = None
    """Unnormalised probability of each transition to begin a window, [N]; None for equal ones."""

    @property
    def chosen(self) -> np.ndarray:
        """The numbers of the episodes that are drawn from."""
        if self.episodes is None:
            return np.arange(len(self.offsets) - 1)
        return np.flatnonzero(self.episodes)


class Sampler(ABC):
    """Draws the windows of every update: `ids(step)` is a function of the seed and the step.

    consecutive: whether row r of an update's batch continues the episode of row r of the previous
    update, or begins another. A policy can then carry a state from window to window.
    """

    consecutive: ClassVar[bool] = False

    def __init__(self, pool: Pool, seed: int, batch_size: int) -> None:
        self.pool, self.seed, self.batch_size = pool, seed, batch_size

    @abstractmethod
    def ids(self, step: int) -> np.ndarray:
        """Rows of the store at which the windows of the global batch begin, [batch_size] int64."""

    def _generator(self, step: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=[self.seed, _STREAM], counter=[0, 0, 0, step])
        )


class RandomWindows(Sampler):
    """Windows that begin at any transition, uniformly or in proportion to the pool's weights.

    Without weights, episodes are drawn in proportion to their length, as in the original.
    """

    def __init__(self, pool: Pool, seed: int, batch_size: int) -> None:
        super().__init__(pool, seed, batch_size)
        self.starts = self._starts()
        self.count = int(pool.offsets[-1]) if self.starts is None else len(self.starts)
        self.weighted = None
        if pool.weights is not None:
            chosen = pool.weights if self.starts is None else pool.weights[self.starts]
            self.weighted = Weighted(chosen)

    def _starts(self) -> np.ndarray | None:
        """The transitions at which a window may begin, [M]; None for all."""
        if self.pool.episodes is None:
            return None
        lengths = np.diff(self.pool.offsets)
        return np.flatnonzero(np.repeat(self.pool.episodes, lengths))

    def ids(self, step: int) -> np.ndarray:
        generator = self._generator(step)
        if self.weighted is None:
            drawn = generator.integers(0, self.count, self.batch_size)
        else:
            drawn = self.weighted.indices(generator, self.batch_size)
        return drawn if self.starts is None else self.starts[drawn]


class WholeEpisodes(RandomWindows):
    """Windows that hold a whole episode each; long and short episodes are equally likely.

    UserError where an episode is longer than a window.
    """

    def __init__(self, pool: Pool, seed: int, batch_size: int) -> None:
        longest = int(np.diff(pool.offsets)[pool.chosen].max())
        require(
            longest <= pool.length,
            f"config: windows whole: an episode has {longest:,} steps, and policy.context_length"
            f" {pool.length:,} does not hold them; give it as many, or take windows any",
        )
        super().__init__(pool, seed, batch_size)

    def _starts(self) -> np.ndarray:
        return self.pool.offsets[:-1][self.pool.chosen]


class Segments(Sampler):
    """Consecutive pieces of episodes: each row of the batch reads episodes from first to last step.

    An episode is cut every `length - overlap` steps. Each row passes through all episodes of the
    pool in its own random order, which is new for every pass. No piece crosses an episode's end.
    The orders of a pass take 12 bytes per episode and row.
    """

    consecutive = True

    def __init__(self, pool: Pool, seed: int, batch_size: int) -> None:
        super().__init__(pool, seed, batch_size)
        require(pool.weights is None, "config: windows segments read all episodes: no weights")
        stride = pool.length - pool.overlap
        self.stride, self.first = stride, pool.offsets[:-1][pool.chosen]
        lengths = np.diff(pool.offsets)[pool.chosen]
        # Every piece has new steps: those after the overlap, or the first of an episode.
        self.pieces = np.maximum(-(-(lengths - pool.overlap) // stride), 1)
        self.steps_a_pass = int(self.pieces.sum())
        require(
            len(lengths) * batch_size <= MOST_ORDERED,
            f"config: windows segments: {len(lengths):,} episodes in {batch_size:,} orders exceed"
            f" {MOST_ORDERED:,}; lower train.batch_size, or take windows any",
        )
        self._orders: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def ids(self, step: int) -> np.ndarray:
        turn, place = divmod(step, self.steps_a_pass)
        orders, ends = self._order(turn)
        places = np.arange(self.batch_size) * self.steps_a_pass + place
        at = np.searchsorted(ends, places, side="right")
        begun = ends[at] - self.pieces[orders[at]]  # pieces before the episode
        return self.first[orders[at]] + (places - begun) * self.stride

    def _order(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the episodes and the number of pieces read after each, [B * E], row by row.

        The rows are concatenated, so that a single search finds the positions of all.
        """
        if turn not in self._orders:
            generators = [
                np.random.Generator(
                    np.random.Philox(key=[self.seed, _ORDERS], counter=[0, 0, t, r])
                )
                for t, r in ((turn, row) for row in range(self.batch_size))
            ]
            count = len(self.pieces)
            orders = np.concatenate([g.permutation(count).astype(np.int32) for g in generators])
            self._orders[turn] = orders, self.pieces[orders].cumsum()
            while len(self._orders) > 1:
                self._orders.popitem(last=False)
        return self._orders[turn]


class Weighted:
    """Draws indices in proportion to weights [M], by Walker's alias method (1974).

    A table of M entries is made once; a draw then reads one entry, for any M. An entry gives its
    own index below its threshold and its alias above it.
    """

    ENTRY = np.dtype([("threshold", np.float32), ("alias", np.int32)])

    def __init__(self, weights: np.ndarray) -> None:
        values = np.asarray(weights, np.float64)
        sound = bool(np.isfinite(values).all() and (values >= 0).all() and values.any())
        require(sound, "weights of windows must be finite, not negative, and not all 0")
        # A cumulative sum adds in order, so it is the same on every processor; a sum may not be.
        shares = values * (len(values) / np.cumsum(values)[-1])
        light, heavy = np.flatnonzero(shares < 1), np.flatnonzero(shares >= 1)
        self.table = np.empty(len(values), self.ENTRY)
        self.table["threshold"], self.table["alias"] = 1, np.arange(len(values))
        # The light entries' deficits and the heavy entries' excesses are laid end to end. A light
        # entry takes its whole deficit from the heavy entry in whose part its own part begins.
        lacking = np.cumsum(1 - shares[light])
        beyond = np.cumsum(shares[heavy] - 1)
        begins = np.concatenate([[0.0], lacking])[:-1]
        giver = np.searchsorted(beyond, begins, side="right").clip(max=len(heavy) - 1)
        self.table["threshold"][light] = shares[light]
        self.table["alias"][light] = heavy[giver]
        # A heavy entry that gave more than its excess takes the difference from the next.
        given = np.concatenate([[0.0], lacking])[np.searchsorted(begins, beyond[:-1], side="left")]
        self.table["threshold"][heavy[:-1]] = 1 - (given - beyond[:-1]).clip(0, 1)
        self.table["alias"][heavy[:-1]] = heavy[1:]

    def indices(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Indices drawn at random, [count] int64."""
        entries = generator.integers(0, len(self.table), count)
        numbers, looked_up = generator.random(count), self.table[entries]
        return np.where(numbers < looked_up["threshold"], entries, looked_up["alias"])

    def chances(self) -> np.ndarray:
        """The probability of each index, [M], for checks; the sum is 1."""
        found = self.table["threshold"].astype(np.float64)
        np.add.at(found, self.table["alias"], 1 - self.table["threshold"].astype(np.float64))
        return found / len(found)


# Samplers by the setting `windows` of a run.
SAMPLERS: dict[str, type[Sampler]] = {
    "any": RandomWindows,
    "whole": WholeEpisodes,
    "segments": Segments,
}


def rank_slice(ids: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The rank's part of the batch; parts are in rank order, and their sizes differ by 0 or 1."""
    return ids[len(ids) * rank // world_size : len(ids) * (rank + 1) // world_size]


class WindowGatherer:
    """Gathers windows of `context_length` steps, by one fancy index per column.

    futures: the number of observations after each window that are gathered with it.
    """

    def __init__(
        self,
        store: EpisodeStore,
        conditions: Column,
        context_length: int,
        max_timestep: int,
        futures: int = 0,
    ) -> None:
        self.store, self.conditions = store, conditions
        self.steps = np.arange(context_length)
        self.after = np.arange(context_length, context_length + futures)
        # [E] the row at which the environment terminated an episode, -1 where it did not
        self.terminal = np.where(store.terminated, store.offsets[1:] - 1, -1)
        self.frames = np.arange(1 - store.stack, context_length)  # relative to a window's first
        self.max_timestep = max_timestep

    def gather(self, ids: np.ndarray) -> Batch:
        """ids [B] -> numpy Batch. Padding holds rows that follow; `mask` is True at real steps."""
        offsets, columns = self.store.offsets, self.store.columns
        ends = np.searchsorted(offsets, ids, side="right")
        firsts = offsets[ends - 1]
        timesteps = (ids - firsts)[:, None] + self.steps  # [B, T]
        left = (offsets[ends] - ids)[:, None]  # [B, 1] from the window's first step on
        return Batch(
            observations=self._observations(ids, firsts),
            actions=columns["actions"].windows(ids, len(self.steps)),
            rewards=columns["rewards"].windows(ids, len(self.steps)),
            conditions=self.conditions.windows(ids, len(self.steps)),
            timesteps=np.minimum(timesteps, self.max_timestep - 1),
            mask=self.steps < left,
            terminated=self.steps == (self.terminal[ends - 1] - ids)[:, None],
            ids=np.array(ids),  # a copy that may be written to
            **(self._futures(ids, left) if len(self.after) else {}),
        )

    def _futures(self, ids: np.ndarray, left: np.ndarray) -> dict[str, np.ndarray]:
        starts = ids + len(self.steps)
        states = self.store.columns["observations"].windows(starts, len(self.after))
        return {"futures": states, "futures_mask": self.after < left}

    def _observations(self, ids: np.ndarray, firsts: np.ndarray) -> np.ndarray:
        """Observations [B, T, ...], or each frame once, [B, T + stack - 1, H, W], from `stack` - 1
        frames before the window on. firsts: [B] the first rows of the episodes."""
        column = self.store.columns["observations"]
        if self.store.stack == 1:
            return column.windows(ids, len(self.steps))
        rows = ids[:, None] + self.frames
        frames = column.take(rows.clip(0, len(column) - 1))
        frames[rows < firsts[:, None]] = 0
        return frames
