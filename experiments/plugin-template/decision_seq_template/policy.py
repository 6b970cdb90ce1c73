"""A linear policy: one matrix from the observation and the condition to the action."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from decision_seq import register
from decision_seq.models.actions import make_actions
from decision_seq.models.encoders import Standardizer
from decision_seq.policies.base import Learnt, Policy, PolicyConfig


@register("policy", "linear")
@dataclass(frozen=True)
class LinearConfig(PolicyConfig):
    """A linear policy."""

    observations: ClassVar[tuple[str, ...]] = ("vector",)
    ignores: ClassVar[tuple[str, ...]] = ("actions",)

    width: int = 32
    """Numbers between the observation and the action."""

    def make(self, spec):
        return Linear(self, spec)


class Linear(Policy):
    """A linear map of the newest observation and condition."""

    def __init__(self, config, spec):
        super().__init__()
        self.spec = spec
        self.standardize = Standardizer(spec.observation_shape[0])
        size = spec.observation_shape[0] + spec.condition_size
        self.hidden = nn.Linear(size, config.width)
        self.actions = make_actions(spec, config.width, embedded=False)

    def fit(self, store, conditions):
        self.standardize.fit(store)

    def encode(self, observations):
        return self.standardize(observations)

    def learn(self, batch, rng, state=None):
        return Learnt(self.actions.losses(self._hidden(self.encoded(batch)), batch, rng))

    def decide(self, batch, state=None, sampling=None):
        rows = torch.arange(len(batch.lengths), device=batch.lengths.device)
        newest = self._hidden(batch)[rows, batch.lengths - 1]  # [B, D]
        return self.actions.choose(newest, sampling), None

    def _hidden(self, encoded):
        return self.hidden(torch.cat([encoded.observations, encoded.conditions], -1))  # [B, T, D]
