"""What came of every step, for policies that model it: its reward and the value behind it.

Such a policy is asked for nothing: it predicts what its actions bring and chooses among them
(Janner et al., 2021, whose values these are).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Episode


def values(rewards: np.ndarray, discount: float) -> np.ndarray:
    """V_t = r_{t+1} + discount V_{t+1}, [T] float64: it begins at the next reward and ends at 0.

    (jannerm/trajectory-transformer, trajectory/datasets/sequence.py.)
    """
    backwards = itertools.accumulate(
        rewards[:0:-1].tolist(), lambda later, reward: reward + discount * later, initial=0.0
    )
    return np.fromiter(backwards, np.float64, len(rewards))[::-1]


@Conditioning.register_subclass("outcome")
@dataclass(frozen=True)
class Outcome(Conditioning):
    """Labels (reward, value); zeros in a rollout, where neither is known and nothing reads them.

    termination_penalty: takes the place of the reward with which the environment ended an episode,
    before values are computed (-100 in the original; a time limit is no such end); null for none.
    """

    fields: ClassVar[tuple[str, ...]] = ("reward", "value")
    discount: float = 0.99
    termination_penalty: float | None = None

    def __post_init__(self) -> None:
        discount, penalty = self.discount, self.termination_penalty
        require(
            0 < discount <= 1,
            f"config: conditioning.discount {discount} must be above 0, and 1 at most",
        )
        require(
            penalty is None or _finite(penalty),
            f"config: conditioning.termination_penalty {penalty} must be a finite float32",
        )

    @property
    def size(self) -> int:
        return 2

    @property
    def asks(self) -> bool:
        return False

    def relabel(self, episode: Episode) -> np.ndarray:
        return self._outcomes(episode.rewards, episode.terminated)

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return np.zeros((len(targets), self.size), np.float32)

    def resolved(self, store: EpisodeStore) -> Outcome:
        """UserError where the penalty would take the place of a whole return."""
        require(
            self.termination_penalty is None or not store.delayed,
            f"config: conditioning.termination_penalty {self.termination_penalty} would take the"
            " place of a delayed return; set it to null",
        )
        return self

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel` does, from the rewards alone: the other columns are not read."""
        rewards = store.columns["rewards"].array
        rows = itertools.pairwise(store.offsets)
        for (start, end), terminated in zip(rows, store.terminated, strict=True):
            out[start:end, :2] = self._outcomes(rewards[start:end], terminated)

    def _outcomes(self, rewards: np.ndarray, terminated: bool) -> np.ndarray:
        """[T, 2] float32."""
        counted = rewards.astype(np.float64)
        if terminated and self.termination_penalty is not None:
            counted[-1] = self.termination_penalty
        return np.stack([counted, values(counted, self.discount)], 1).astype(np.float32)


@Conditioning.register_subclass("goal")
@dataclass(frozen=True)
class GoalOutcome(Outcome):
    """Labels (reward, value, goal): the goal is the observation that the episode ended in.

    That is its final one where the data hold it, else the last that was acted upon. Observations
    are vectors.

    goal: the one that a rollout is given; null takes that of the data's best episode.
    """

    fields: ClassVar[tuple[str, ...]] = ("reward", "value", "goal")
    goal: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.goal is None or _finite(self.goal),
            "config: conditioning.goal holds NaN, infinity or more than a float32 can; give finite"
            " numbers",
        )

    @property
    def size(self) -> int:
        return 2 + len(self._goal)

    def relabel(self, episode: Episode) -> np.ndarray:
        goals = np.broadcast_to(episode.observations[-1], (len(episode), len(self._goal)))
        return np.concatenate([super().relabel(episode), goals], 1, dtype=np.float32)

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        condition = np.array([0.0, 0.0, *self._goal], np.float32)
        return np.tile(condition, (len(targets), 1))

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel` does, from the rewards and the episodes' last observations alone."""
        super().relabel_store(store, out)
        for index, (start, end) in enumerate(itertools.pairwise(store.offsets)):
            out[start:end, 2:] = _ended_in(store, index)

    def resolved(self, store: EpisodeStore) -> GoalOutcome:
        """UserError where observations are no vectors, or the goal has not their size."""
        super().resolved(store)
        shape = store.observation_shape
        require(
            len(shape) == 1,
            f"conditioning goal needs vector observations, not ones of shape {shape}",
        )
        goal = self.goal
        if goal is None:
            goal = tuple(_ended_in(store, int(store.returns.argmax())).tolist())
        require(
            len(goal) == shape[0],
            f"config: conditioning.goal has {len(goal)} numbers, an observation of the data has"
            f" {shape[0]}; give as many",
        )
        return replace(self, goal=goal)

    @property
    def _goal(self) -> tuple[float, ...]:
        if self.goal is None:
            raise ValueError("the goal is not resolved: call resolved(store) first")
        return self.goal


def _finite(numbers: float | tuple[float, ...]) -> bool:
    """In float32, which labels are."""
    return bool((np.abs(numbers) < np.finfo(np.float32).max).all())


def _ended_in(store: EpisodeStore, index: int) -> np.ndarray:
    """The last observation of an episode that the store has, [S]."""
    final = store.columns.get("final_observations")
    if final is not None:
        return final.array[index]
    return store.columns["observations"].array[store.offsets[index + 1] - 1]
