"""Action spaces: how an action is embedded, predicted, scored and chosen."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ContinuousActions(nn.Module):
    """Actions in [-1, 1]: linear embedding, tanh head, mean squared error over the dimensions."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.head = nn.Linear(width, size)

    def predict(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., A] in [-1, 1]."""
        return torch.tanh(self.head(hidden))

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T, A] -> squared error [B, T]."""
        return (self.predict(hidden).to(actions.dtype) - actions).square().mean(-1)
