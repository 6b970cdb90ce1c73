"""Base classes of auxiliary losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import draccus
import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.types import Batch, Spec


class Features(NamedTuple):
    """Features that a policy computed from a batch: the input of auxiliary losses."""

    observations: Tensor  # [B, T, F] encoded, each step separately
    hidden: Tensor  # [B, T, D] after mixing over time, where the action is predicted
    encode: Callable[[Tensor], Tensor]  # observations, changed ones too, [B, T, ...] -> [B, T, F]
    momentum: Callable[[Tensor], Tensor] | None = None  # `encode` of the slowly moving copy


class Sizes(NamedTuple):
    """Widths of a policy's features: F of an encoded observation, D of a hidden state."""

    observation: int
    hidden: int


class Auxiliary(nn.Module):
    """An auxiliary loss: a value at every step, computed from a policy's features.

    As for a policy's own losses, the weight of each step is computed before the network runs
    (`counted`), and values are not reduced here. Windows lie inside one episode; padding is masked.

    looks_ahead: whether the value of a step depends on later steps of its window.
    draws: whether `counted` or `learn` use the generator.
    momentum: decay of the encoder's slowly moving copy; None for no copy.
    """

    looks_ahead: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    momentum: float | None = None

    def counted(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """The weight of each step in the loss, [B, T], computed without parameters."""
        return batch.mask

    def learn(self, features: Features, batch: Batch, rng: torch.Generator) -> Tensor:
        """The loss of every step, [B, T], unreduced. rng: has the same seed as in `counted`."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Hook called after every update of the weights."""


@dataclass(frozen=True)
class AuxiliaryConfig(draccus.ChoiceRegistry):
    """An auxiliary loss's settings, with their defaults."""

    weight: float = 1.0
    """Factor of the loss in the sum that is minimised; logs show the loss without it."""

    def __post_init__(self) -> None:
        fine = 0 <= self.weight < math.inf
        require(fine, f"config: policy.auxiliary: weight {self.weight} must be 0 or above, finite")

    def build(self, spec: Spec, sizes: Sizes) -> Auxiliary:
        """The module, for a policy with features of these sizes."""
        raise NotImplementedError
