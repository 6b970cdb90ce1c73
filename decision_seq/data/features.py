"""Features: what of a transition is counted, in the data and in a rollout alike.

A policy is conditioned on some statistic of a feature of all that is still to come (Furuta et al.,
2022, "Generalized Decision Transformer for offline hindsight information matching"): here its sum,
in `histogram` its distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning, ReturnToGo
from decision_seq.data.store import EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.types import Episode, Transition

REWARD, VELOCITY = "reward", "x_velocity"
Feature = int | str  # a dimension of an observation, or one of the names above


@dataclass(frozen=True)
class Featured(Conditioning):
    """A conditioning on one feature of the transitions.

    feature: `reward`; `x_velocity`, where the task is known to have it among its observations; or
    the number of a dimension of the observation. A step's is that of the observation acted upon,
    not of the one that followed.
    """

    feature: Feature = REWARD

    @property
    def asks(self) -> bool:
        return False  # for a return: rollouts are given a target of the conditioning's own

    def of_store(self, store: EpisodeStore) -> np.ndarray:
        """The feature of every transition, [N] float64."""
        if self.feature == REWARD:
            return store.columns["rewards"].array
        return store.columns["observations"].array[:, self._dimension].astype(np.float64)

    def of_episode(self, episode: Episode) -> np.ndarray:
        """The feature of every step, [T] float64; an observation behind the last has none."""
        if self.feature == REWARD:
            return episode.rewards.astype(np.float64)
        return episode.observations[: len(episode), self._dimension].astype(np.float64)

    def of_transition(self, transition: Transition) -> np.ndarray:
        """The feature of one step of N environments, [N] float64."""
        if self.feature == REWARD:
            return transition.rewards
        return transition.observations[:, self._dimension].astype(np.float64)

    def found_in(self, store: EpisodeStore) -> Self:
        """With the dimension in the place of its name; UserError where the data have none such."""
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
    """A resolved feature for people: `reward`, `x_velocity (observation 8)`, `observation 3`."""
    facts = FACTS.get(family or "")
    if feature == REWARD:
        return REWARD
    if facts is not None and facts.velocity == feature:
        return f"{VELOCITY} (observation {feature})"
    return f"observation {feature}"


@Conditioning.register_subclass("feature")
@dataclass(frozen=True)
class FeatureToGo(Featured, ReturnToGo):
    """The sum of the feature to go, divided by `scale`: the DT-X of the paper.

    A rollout is asked for nothing: it counts down from `target`, null for that of the data's best
    episode. clip: as for rewards.
    """

    fields: ClassVar[tuple[str, ...]] = ("feature_to_go",)
    scale: float | None = 1000.0
    clip: bool | None = False
    target: float | None = None

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
