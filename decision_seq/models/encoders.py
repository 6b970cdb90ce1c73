"""From one observation to what a network is given of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Standardizer(nn.Module):
    """Standardises a vector by the data's statistics.

    They are buffers: fitted once from the store, they travel with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Mean and population standard deviation of the observations, [S] each.

        A dimension that never varied in the data is only centred. (kzl/decision-transformer,
        gym/experiment.py, divides it by 1e-6: were it to vary at evaluation, as the contact forces
        of D4RL's ant do in newer simulators, it would drown all others.)
        """
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(np.where(std > 1e-6, std + 1e-6, 1.0)))

    def forward(self, observations: Tensor) -> Tensor:
        """[B, T, S] -> [B, T, S]."""
        return (observations - self.mean) / self.std


class VectorEncoder(Standardizer):
    """Standardises a vector, then embeds it linearly into one token."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(size)
        self.embed = nn.Linear(size, width)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, T, S] -> [B, T, D]."""
        return self.embed(super().forward(observations))
