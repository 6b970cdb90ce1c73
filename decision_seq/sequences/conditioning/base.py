"""Conditionings: the hindsight label of a step, the prompt of a rollout, and its update per step.

One class defines all three, so training and evaluation agree. The return scale is defined only
here. A new conditioning is a class with its `register_subclass` line, here or in a module that
`decision_seq.sequences.conditioning` imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import draccus
import numpy as np

from decision_seq.datasets.store import EpisodeStore
from decision_seq.types import Episode, Transition

# Labels that are unknown in a rollout: only policies that predict them can use them.
HINDSIGHT_ONLY = frozenset({"reward", "value"})


@dataclass(frozen=True)
class Conditioning(draccus.ChoiceRegistry):
    """Base class of conditionings."""

    fields: ClassVar[tuple[str, ...]] = ()
    """Names of its labels, in the order of a condition's columns. Policies find their labels by
    these names (`PolicyConfig.needs`). A label may be several columns wide."""
    shuffles: ClassVar[bool] = False
    """Whether `relabel_store` gives transitions the labels of others, as a control does."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "return"

    @property
    def size(self) -> int:
        """C, the width of a condition."""
        raise NotImplementedError

    @property
    def asks(self) -> bool:
        """Whether a rollout has a target."""
        return self.size > 0

    @property
    def discount(self) -> float:
        """Discount of future rewards in the labels."""
        return 1.0

    def relabel(self, episode: Episode) -> np.ndarray:
        """The hindsight labels of every step, [T, C] float32."""
        raise NotImplementedError

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        """Targets [N] in the environment's units -> first conditions [N, C]."""
        raise NotImplementedError

    def advance(
        self,
        conditions: np.ndarray,
        targets: np.ndarray,
        transition: Transition,
        timesteps: np.ndarray,
    ) -> np.ndarray:
        """The conditions [N, C] after a transition at `timesteps` [N]; by default unchanged."""
        return conditions

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Write the labels of every transition into `out` [N, C]."""
        for index, episode in enumerate(store.episodes()):
            out[store.offsets[index] : store.offsets[index + 1]] = self.relabel(episode)

    def resolved(self, store: EpisodeStore) -> Conditioning:
        """A copy in which all values that depend on the data are filled in."""
        return self

    @property
    def labelling(self) -> Conditioning:
        """A copy with only the settings that its labels depend on, without those of rollouts."""
        return self


@Conditioning.register_subclass("none")
@dataclass(frozen=True)
class Unconditioned(Conditioning):
    """No condition: C = 0. A policy then imitates the data (behaviour cloning)."""

    @property
    def size(self) -> int:
        return 0

    def relabel(self, episode: Episode) -> np.ndarray:
        return np.empty((len(episode), 0), np.float32)

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return np.empty((len(targets), 0), np.float32)
