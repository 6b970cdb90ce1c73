"""Position embeddings: how the tokens of the steps become a sequence that carries time.

To add one: a module here, and a frozen config that inherits `PositionsConfig`, registers itself and
builds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import draccus
import torch
from torch import Tensor, nn

from decision_seq.config import require


class Positions(nn.Module):
    """Interleaves the M tokens of every step and adds position embeddings.

    lasting: True where a token stays the same while the window slides over its episode, that is,
    where its embedding depends on its timestep and not on its place in the window.
    """

    lasting = False

    def forward(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        """tokens [B, T, M, D], timesteps [B, T] -> [B, T * M, D], step by step."""
        raise NotImplementedError


@dataclass(frozen=True)
class PositionsConfig(draccus.ChoiceRegistry):
    """The hyper-parameters of position embeddings, and the only place of their defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "timestep"

    def build(self, length: int, max_timestep: int, width: int) -> Positions:
        """length: tokens in a full window."""
        raise NotImplementedError


@PositionsConfig.register_subclass("timestep")
@dataclass(frozen=True)
class TimestepConfig(PositionsConfig):
    """One learned vector per timestep."""

    std: float = 1.0
    """Standard deviation of the timestep embedding's initial values. With 1, PyTorch's default and
    the original's, rarely trained timestep embeddings dominate the sum, and policies fail beyond
    the timesteps that the data reach; 0.02 avoids that."""

    def __post_init__(self) -> None:
        std = self.std
        require(0 <= std < math.inf, f"config: policy.positions.std {std} must not be negative")

    def build(self, length: int, max_timestep: int, width: int) -> TimestepPositions:
        return TimestepPositions(max_timestep, width, self.std)


class TimestepPositions(Positions):
    """One learned vector per timestep, added to each token of the step; then LayerNorm.

    kzl/decision-transformer gym/decision_transformer/models/decision_transformer.py.
    """

    lasting = True

    def __init__(self, max_timestep: int, width: int, std: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(max_timestep, width)
        nn.init.normal_(self.embed.weight, std=std)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        embedded = tokens + self.embed(timesteps)[:, :, None]  # [B, T, M, D]
        return self.norm(embedded.flatten(1, 2))  # [B, T * M, D]


@PositionsConfig.register_subclass("window")
@dataclass(frozen=True)
class WindowConfig(PositionsConfig):
    """The two embedding tables of the paper's Atari model."""

    def build(self, length: int, max_timestep: int, width: int) -> WindowPositions:
        return WindowPositions(length, max_timestep, width)


class WindowPositions(Positions):
    """One learned vector per place in the window, and one for the window's first timestep.

    kzl/decision-transformer atari/mingpt/model_atari.py; both are initialised with zeros, as there.
    (It takes the first step's timestep in training and the newest step's in a rollout; here both
    take the first step's.)
    """

    def __init__(self, length: int, max_timestep: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(length, width))
        self.begin = nn.Embedding(max_timestep, width)
        nn.init.zeros_(self.begin.weight)

    def forward(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        tokens = tokens.flatten(1, 2)  # [B, T * M, D]
        # Only padding can follow a full window.
        places = torch.arange(tokens.shape[1], device=tokens.device).clamp(max=len(self.place) - 1)
        return tokens + self.place[places] + self.begin(timesteps[:, :1])
