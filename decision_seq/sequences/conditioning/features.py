"""Features of transitions, computed in the same way from the data and in a rollout.

A policy can be conditioned on a statistic of a feature over all future steps (Furuta et al., 2022,
"Generalized Decision Transformer for offline hindsight information matching"): its sum (in this
module) or its distribution (in `histogram`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.sequences.conditioning.base import Conditioning
from decision_seq.sequences.conditioning.returns import ReturnToGo
from decision_seq.types import Episode, Transition

REWARD, VELOCITY = "reward", "x_velocity"
Feature = int | str  # a dimension of an observation, or one of the names above


@dataclass(frozen=True)
class Featured(Conditioning):
    """Base of conditionings on one feature of the transitions."""

    feature: Feature = REWARD
    """`reward`, `x_velocity` (where the task's observations are known to include it), or the number
    of a dimension of the observation.

    A step's feature is read from the observation before its action.
    """

    @property
    def asks(self) -> bool:
        return False  # no target return: the conditioning has a target of its own

    def of_store(self, store: EpisodeStore) -> np.ndarray:
        """The feature of every transition, [N] float64."""
        if self.feature == REWARD:
            return store.columns["rewards"].array
        return store.columns["observations"].array[:, self._dimension].astype(np.float64)

    def of_episode(self, episode: Episode) -> np.ndarray:
        """The feature of every step, [T] float64; a final observation is ignored."""
        if self.feature == REWARD:
            return episode.rewards.astype(np.float64)
        return episode.observations[: len(episode), self._dimension].astype(np.float64)

    def of_transition(self, transition: Transition) -> np.ndarray:
        """The feature of one step of N environments, [N] float64."""
        if self.feature == REWARD:
            return transition.rewards
        return transition.observations[:, self._dimension].astype(np.float64)

    def found_in(self, store: EpisodeStore) -> Self:
        """A copy with the dimension in place of its name; UserError where the data lack it."""
        feature = self.feature
        if feature == VELOCITY:
            facts = FACTS.get(store.header["family"] or "")
            known = facts.velocity if facts else None
            require(
                known is not None,
                f"{store.name}: no dimension of its observations is known to be {VELOCITY}; give"
                " its number as the feature",
            )
            assert known is not None
            feature = known
        if feature != REWARD:
            require(
                isinstance(feature, int),
                f"the feature {feature!r} is unknown; it is {REWARD}, {VELOCITY}, or the number of"
                " a dimension of the observation",
            )
            shape = store.observation_shape
            require(
                len(shape) == 1 and 0 <= int(feature) < shape[0],
                f"the feature {feature} is no dimension of observations of shape {list(shape)}",
            )
        return replace(self, feature=feature)

    @property
    def _dimension(self) -> int:
        if not isinstance(self.feature, int):
            raise ValueError("the feature is not resolved: call resolved(store) first")
        return self.feature


def feature_name(feature: Feature, family: str | None) -> str:
    """Readable name of a resolved feature, such as `x_velocity (observation 8)`."""
    facts = FACTS.get(family or "")
    if feature == REWARD:
        return REWARD
    if facts is not None and facts.velocity == feature:
        return f"{VELOCITY} (observation {feature})"
    return f"observation {feature}"


@Conditioning.register_subclass("feature")
@dataclass(frozen=True)
class FeatureToGo(Featured, ReturnToGo):
    """Sum of the feature over the future steps, divided by `scale`: the DT-X of the paper.

    Rollouts take no target return; they count down from `target`.
    """

    fields: ClassVar[tuple[str, ...]] = ("feature_to_go",)
    scale: float | None = 1000.0
    """Divisor of the labels; null as for `conditioning.return`."""
    clip: bool | None = False
    """Whether values are clipped to [-1, 1] before they are summed; null as for
    `conditioning.return`."""
    target: float | None = None
    """Sum that a rollout starts from; null for that of the data's best episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.target is None or bool(np.isfinite(self.target)),
            f"config: conditioning.target {self.target} must be a finite number",
        )

    @property
    def labelling(self) -> FeatureToGo:
        return replace(self, target=None)

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        if self.target is None:
            raise ValueError("the target is not resolved: call resolved(store) first")
        return super().prompt(np.full(len(targets), self.target))

    def resolved(self, store: EpisodeStore) -> Self:
        found = super().resolved(store).found_in(store)
        if found.target is not None:
            return found
        best = store.episode(int(store.returns.argmax()))
        return replace(found, target=float(found._counted(found.of_episode(best)).sum()))
