"""Which windows make up a batch: a pure function of (seed, step), sliced by every rank.

No state is carried from step to step, so a resumed run, and a run on another number of
processes, see the same data in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decision_seq.data.store import Column, EpisodeStore
from decision_seq.types import Batch

_STREAM = 0x5A3B1E  # keeps this stream of numbers apart from others made of the same seed


@dataclass(frozen=True)
class WindowIndex:
    """The transitions at which a window may start.

    offsets: [E + 1] of the store. starts: [M] admissible rows, None for every transition, which
    draws episodes in proportion to their length, as the original does. weights: [M], unnormalised;
    None for equal ones.
    """

    offsets: np.ndarray
    starts: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def count(self) -> int:
        return int(self.offsets[-1]) if self.starts is None else len(self.starts)


def window_ids(seed: int, step: int, batch: int, index: WindowIndex) -> np.ndarray:
    """Rows of the first transitions of the global batch of `step`, [batch] int64."""
    rng = np.random.Generator(np.random.Philox(key=[seed, _STREAM], counter=[0, 0, 0, step]))
    if index.weights is None:
        chosen = rng.integers(0, index.count, batch)
    else:
        cumulative = np.cumsum(index.weights, dtype=np.float64)
        chosen = np.searchsorted(cumulative, rng.random(batch) * cumulative[-1], side="right")
    return chosen if index.starts is None else index.starts[chosen]


def rank_slice(ids: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The rank's part: in rank order the parts make up the global batch, sizes within one."""
    return ids[len(ids) * rank // world_size : len(ids) * (rank + 1) // world_size]


class WindowGatherer:
    """Windows of `context_length` steps, one fancy index a column.

    futures: so many observations behind each window are gathered with it.
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
        self.behind = np.arange(context_length, context_length + futures)
        # [E] the row with which the environment ended an episode, -1 where it did not
        self.terminal = np.where(store.terminated, store.offsets[1:] - 1, -1)
        self.frames = np.arange(1 - store.stack, context_length)  # relative to a window's first
        self.max_timestep = max_timestep

    def gather(self, ids: np.ndarray) -> Batch:
        """ids [B] -> numpy Batch. Padding holds whatever follows; the mask says what is real."""
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
            ids=np.array(ids),  # its own, which may be written to
            **(self._futures(ids, left) if len(self.behind) else {}),
        )

    def _futures(self, ids: np.ndarray, left: np.ndarray) -> dict[str, np.ndarray]:
        starts = ids + len(self.steps)
        states = self.store.columns["observations"].windows(starts, len(self.behind))
        return {"futures": states, "futures_mask": self.behind < left}

    def _observations(self, ids: np.ndarray, firsts: np.ndarray) -> np.ndarray:
        """firsts: [B] the first rows of the episodes -> [B, T, ...]; of frames
        [B, T + stack - 1, H, W], every one once, those before the window first."""
        column = self.store.columns["observations"]
        if self.store.stack == 1:
            return column.windows(ids, len(self.steps))
        rows = ids[:, None] + self.frames
        frames = column.take(rows.clip(0, len(column) - 1))
        frames[rows < firsts[:, None]] = 0
        return frames
