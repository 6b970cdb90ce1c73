"""Where in time a token stands: how the streams of a step become a sequence.

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
    """Interleaves the M tokens of every step, and tells each when it is.

    lasting: whether a token stays what it is while a window slides over its episode.
    """

    lasting = False

    def forward(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        """tokens [B, T, M, D], timesteps [B, T] -> [B, T * M, D], step by step."""
        raise NotImplementedError


@dataclass(frozen=True)
class PositionsConfig(draccus.ChoiceRegistry):
    """What tells the time, and the only place of its defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "timestep"

    def build(self, length: int, max_timestep: int, width: int) -> Positions:
        """length: tokens in a whole window."""
        raise NotImplementedError


@PositionsConfig.register_subclass("timestep")
@dataclass(frozen=True)
class TimestepConfig(PositionsConfig):
    """std: spread of the timestep embedding's first values.

    1, PyTorch's default and the original's, drowns the other tokens at timesteps that the data
    seldom reach, and a policy that outlives its data falls there; 0.02 lets it go on.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        std = self.std
        require(0 <= std < math.inf, f"config: policy.positions.std {std} must not be negative")

    def build(self, length: int, max_timestep: int, width: int) -> TimestepPositions:
        return TimestepPositions(max_timestep, width, self.std)


class TimestepPositions(Positions):
    """One learned vector a timestep, shared by the tokens of the step; then LayerNorm.

    kzl/decision-transformer gym/decision_transformer/models/decision_transformer.py.
    """

    lasting = True

    def __init__(self, max_timestep: int, width: int, std: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(max_timestep, width)
        nn.init.normal_(self.embed.weight, std=std)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        return self.norm((tokens + self.embed(timesteps)[:, :, None]).flatten(1, 2))


@PositionsConfig.register_subclass("window")
@dataclass(frozen=True)
class WindowConfig(PositionsConfig):
    """The two tables of the paper's Atari model."""

    def build(self, length: int, max_timestep: int, width: int) -> WindowPositions:
        return WindowPositions(length, max_timestep, width)


class WindowPositions(Positions):
    """One learned vector a place in the window, one for the timestep at which the window begins.

    kzl/decision-transformer atari/mingpt/model_atari.py; both begin at zero, as there. (It takes
    the first step's timestep in training and the newest one's in a rollout; here both the first's.)
    """

    def __init__(self, length: int, max_timestep: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(length, width))
        self.begin = nn.Embedding(max_timestep, width)
        nn.init.zeros_(self.begin.weight)

    def forward(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        tokens = tokens.flatten(1, 2)
        # Behind a whole window only padding can stand.
        places = torch.arange(tokens.shape[1], device=tokens.device).clamp(max=len(self.place) - 1)
        return tokens + self.place[places] + self.begin(timesteps[:, :1])
