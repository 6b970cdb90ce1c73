"""Labels for policies that model outcomes: the reward of every step and the value after it.

Such a policy has no target: it predicts the outcomes of its actions and chooses among them. Values
are defined as by Janner et al. (2021).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.conditioning.base import Conditioning
from decision_seq.types import Episode


def values(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Values V_t = r_{t+1} + discount V_{t+1}, [T] float64; the reward of step t is excluded and
    the last value is 0 (jannerm/trajectory-transformer, trajectory/datasets/sequence.py).
    """
    backwards = itertools.accumulate(
        rewards[:0:-1].tolist(), lambda later, reward: reward + discount * later, initial=0.0
    )
    return np.fromiter(backwards, np.float64, len(rewards))[::-1]


@Conditioning.register_subclass("outcome")
@dataclass(frozen=True)
class Outcome(Conditioning):
    """Labels (reward, value). In a rollout both are unknown: they are zeros, which are not read."""

    fields: ClassVar[tuple[str, ...]] = ("reward", "value")
    discount: float = 0.99
    """Discount of the values."""
    termination_penalty: float | None = None
    """Replacement of the last reward of episodes that the environment terminated (not of those
    that a time limit ended), before values are computed; -100 in the original, null for none."""

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
        """The conditioning itself; UserError where the penalty would replace a whole return."""
        require(
            self.termination_penalty is None or not store.delayed,
            f"config: conditioning.termination_penalty {self.termination_penalty} would take the"
            " place of a delayed return; set it to null",
        )
        return self

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel`, but reads only the rewards."""
        rewards = store.columns["rewards"].array
        rows = itertools.pairwise(store.offsets)
        for (start, end), terminated in zip(rows, store.terminated, strict=True):
            out[start:end, :2] = self._outcomes(rewards[start:end], terminated)

    def _outcomes(self, rewards: np.ndarray, terminated: bool) -> np.ndarray:
        """Rewards and values of an episode, [T, 2] float32."""
        counted = rewards.astype(np.float64)
        if terminated and self.termination_penalty is not None:
            counted[-1] = self.termination_penalty
        return np.stack([counted, values(counted, self.discount)], 1).astype(np.float32)


@Conditioning.register_subclass("goal")
@dataclass(frozen=True)
class GoalOutcome(Outcome):
    """Labels (reward, value, goal): the goal is the last observation of the episode.

    That is its final observation where the data contain it, else the observation of the last
    action. Observations must be vectors.
    """

    fields: ClassVar[tuple[str, ...]] = ("reward", "value", "goal")
    goal: tuple[float, ...] | None = None
    """Goal of a rollout; null for that of the data's best episode."""

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
        """As `relabel`, but reads only the rewards and the episodes' last observations."""
        super().relabel_store(store, out)
        for index, (start, end) in enumerate(itertools.pairwise(store.offsets)):
            out[start:end, 2:] = _ended_in(store, index)

    def resolved(self, store: EpisodeStore) -> GoalOutcome:
        """A copy with the goal filled in; UserError unless it is a vector like an observation."""
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
    """Whether the numbers are finite in float32, the type of labels."""
    return bool((np.abs(numbers) < np.finfo(np.float32).max).all())


def _ended_in(store: EpisodeStore, index: int) -> np.ndarray:
    """The last observation of an episode in the store, [S]."""
    final = store.columns.get("final_observations")
    if final is not None:
        return final.array[index]
    return store.columns["observations"].array[store.offsets[index + 1] - 1]
