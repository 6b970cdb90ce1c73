"""Inverse dynamics: the action predicted from the observations before and after it.

Pathak et al., 2017 (Curiosity-driven exploration by self-supervised prediction), section 2.2: an
encoder trained by it represents what actions change and may drop the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.models.actions import make_actions
from decision_seq.models.auxiliary.base import Auxiliary, AuxiliaryConfig, Features, Sizes
from decision_seq.types import Batch, Spec


@AuxiliaryConfig.register_subclass("inverse_dynamics")
@dataclass(frozen=True)
class InverseDynamicsConfig(AuxiliaryConfig):
    """Inverse dynamics on the encoded observations."""

    width: int = 256
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width >= 1, f"config: policy.auxiliary: width {self.width} must be at least 1")

    def build(self, spec: Spec, sizes: Sizes) -> InverseDynamics:
        return InverseDynamics(self, spec, sizes)


class InverseDynamics(Auxiliary):
    """A hidden layer over the encoded observations of two consecutive steps, with an action loss.

    The last step of a window or an episode has no observation after it and does not count.
    """

    looks_ahead = True

    def __init__(self, config: InverseDynamicsConfig, spec: Spec, sizes: Sizes) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * sizes.observation, config.width)
        self.actions = make_actions(spec, config.width, embedded=False)

    def counted(self, batch: Batch, rng: torch.Generator) -> Tensor:
        return batch.mask & F.pad(batch.mask[:, 1:], (0, 1))

    def learn(self, features: Features, batch: Batch, rng: torch.Generator) -> Tensor:
        observations = features.observations  # [B, T, F]
        following = F.pad(observations[:, 1:], (0, 0, 0, 1))
        pairs = torch.cat([observations, following], -1)  # [B, T, 2F]
        return self.actions.loss(self.hidden(pairs).relu(), batch.actions)
