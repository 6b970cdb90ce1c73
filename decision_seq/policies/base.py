"""The contract of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import draccus
import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Batch, Spec

# name -> (values [B, T], weights [B, T]); reduced once, by `train.masked_mean`.
Losses = dict[str, tuple[Tensor, Tensor]]


class Policy(nn.Module):
    """Embeds a batch, lays it out as tokens, and returns named losses or actions."""

    spec: Spec

    def fit(self, store: EpisodeStore) -> None:
        """Take from the data what must be known before training: statistics, into buffers."""
        raise NotImplementedError

    def forward(self, batch: Batch, rng: torch.Generator | None = None) -> Losses:
        """A torch batch [B, T] -> unreduced losses. `rng` supplies what a policy draws itself."""
        raise NotImplementedError

    def act(
        self, batch: Batch, state: Any = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Any]:
        """Actions [B, A] at the newest step of each row, and the state carried on (or None)."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after every update of the weights."""


@dataclass(frozen=True)
class PolicyConfig(draccus.ChoiceRegistry):
    """A policy's hyper-parameters and the only place of their defaults.

    context_length: K, the steps in a training window and in the context of a rollout.
    """

    context_length: int = 20

    def __post_init__(self) -> None:
        length = self.context_length
        require(length >= 1, f"config: policy.context_length {length} must be at least 1")

    @classmethod
    def default_choice_name(cls) -> str:
        return "dt"

    def build(self, spec: Spec) -> Policy:
        raise NotImplementedError
