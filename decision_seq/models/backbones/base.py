"""The contract of a backbone."""

from __future__ import annotations

from dataclasses import dataclass

import draccus
from torch import Tensor, nn

from decision_seq.models.layers import Read


class Backbone(nn.Module):
    """Causal: the hidden state at a position depends on the tokens up to it and on no other."""

    width: int

    def forward(self, tokens: Tensor, read: Read | None = None) -> Tensor:
        """tokens [B, L, D] -> hidden [B, R, D] at the positions `read`, by default all."""
        raise NotImplementedError


@dataclass(frozen=True)
class BackboneConfig(draccus.ChoiceRegistry):
    """A backbone's hyper-parameters and the only place of their defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "gpt"

    def build(self) -> Backbone:
        raise NotImplementedError
