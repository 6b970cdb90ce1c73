"""Returns-to-go, and a shuffled control of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.sequences.conditioning.base import Conditioning
from decision_seq.types import Episode, Transition


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Undiscounted sum of rewards t..T-1 at every t, [T] float64 (Chen et al., 2021, section 3)."""
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1]


@Conditioning.register_subclass("return")
@dataclass(frozen=True)
class ReturnToGo(Conditioning):
    """Conditioning on the return-to-go divided by `scale` (Chen et al., 2021)."""

    fields: ClassVar[tuple[str, ...]] = ("return_to_go",)
    scale: float | None = None
    """Divisor of the returns; null for the task's published one (1000 for D4RL's locomotion), or
    else the power of ten at or below the largest absolute return of the data."""
    clip: bool | None = None
    """Whether rewards are clipped to [-1, 1] before they are summed, in the data and in rollouts;
    null to clip where the data's rewards were clipped, so that both agree. (The original trains on
    DQN-replay's clipped rewards and sums a rollout's raw ones: clip false.)"""

    def __post_init__(self) -> None:
        positive = self.scale is None or (np.isfinite(self.scale) and self.scale > 0)
        require(positive, f"config: conditioning.scale {self.scale} must be above 0")

    @property
    def size(self) -> int:
        return 1

    def of_store(self, store: EpisodeStore) -> np.ndarray:
        """The summed quantity of every transition, [N]: here its reward."""
        return store.columns["rewards"].array

    def of_episode(self, episode: Episode) -> np.ndarray:
        """The summed quantity of every step of an episode, [T]."""
        return episode.rewards

    def of_transition(self, transition: Transition) -> np.ndarray:
        """The summed quantity of one step of N environments, [N]."""
        return transition.rewards

    def relabel(self, episode: Episode) -> np.ndarray:
        return self._labels(self.of_episode(episode))

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel`, but reads only the column of the summed quantity."""
        values = self.of_store(store)
        for start, end in itertools.pairwise(store.offsets):
            out[start:end] = self._labels(values[start:end])

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return (np.asarray(targets, np.float64) / self._scale)[:, None].astype(np.float32)

    def advance(
        self,
        conditions: np.ndarray,
        targets: np.ndarray,
        transition: Transition,
        timesteps: np.ndarray,
    ) -> np.ndarray:
        values = self._counted(self.of_transition(transition))
        return (conditions - values[:, None] / self._scale).astype(np.float32)

    def resolved(self, store: EpisodeStore) -> Self:
        # A delayed reward is a sum of rewards, which are already clipped where the data's are.
        clip = store.clipped and not store.delayed if self.clip is None else self.clip
        require(
            not (clip and store.delayed),
            "config: conditioning.clip would cut a delayed return to [-1, 1]; set it to false",
        )
        scale = self._scale_of(store) if self.scale is None else self.scale
        return replace(self, scale=scale, clip=clip)

    @staticmethod
    def _scale_of(store: EpisodeStore) -> float:
        facts = FACTS.get(store.header["family"] or "")
        if facts is not None and facts.return_scale is not None:
            return facts.return_scale
        largest = float(np.abs(store.returns).max())
        return float(10.0 ** np.floor(np.log10(largest))) if largest > 0 else 1.0

    def _labels(self, values: np.ndarray) -> np.ndarray:
        return (returns_to_go(self._counted(values)) / self._scale)[:, None].astype(np.float32)

    def _counted(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, -1, 1) if self.clip else values

    @property
    def _scale(self) -> float:
        if self.scale is None:
            raise ValueError("the scale is not resolved: call resolved(store) first")
        return self.scale


@Conditioning.register_subclass("shuffled_return")
@dataclass(frozen=True)
class ShuffledReturnToGo(ReturnToGo):
    """Control experiment: the returns-to-go of all transitions, shuffled over the transitions.

    A policy trained on it can learn nothing from its condition, so its returns must not depend on
    the target. It is the control for differences between targets under other conditionings.
    (Exchanging the labels of whole episodes is not enough: a label would still depend on the time
    within an episode, and the few episodes with the highest labels, good or bad by chance, would
    define what a high target means.)
    """

    fields: ClassVar[tuple[str, ...]] = ("shuffled_return_to_go",)
    shuffles: ClassVar[bool] = True
    shuffle_seed: int = 0
    """Seed of the shuffling."""

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Write every label once, each at a random transition."""
        super().relabel_store(store, out)
        out[:] = out[np.random.default_rng(self.shuffle_seed).permutation(len(out))]
