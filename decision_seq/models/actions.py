"""Action spaces: how an action is embedded, scored and chosen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.types import Sampling, Spec


class ContinuousActions(nn.Module):
    """Actions in [-1, 1]: linear embedding, tanh head, mean squared error over the dimensions."""

    def __init__(self, size: int, width: int, embedded: bool = True) -> None:
        super().__init__()
        if embedded:
            self.embed = nn.Linear(size, width)
        self.head = nn.Linear(width, size)

    def predict(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., A] in [-1, 1]."""
        return torch.tanh(self.head(hidden))

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """[B, D] -> [B, A] float32; there is nothing to draw."""
        return self.predict(hidden).float()

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T, A] -> squared error [B, T]."""
        return (self.predict(hidden).to(actions.dtype) - actions).square().mean(-1)


class DiscreteActions(nn.Module):
    """One of A choices: embedding table, logits, cross-entropy."""

    def __init__(self, size: int, width: int, embedded: bool = True) -> None:
        super().__init__()
        if embedded:
            self.embed = nn.Embedding(size, width)
        self.head = nn.Linear(width, size)

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """[B, D] -> [B] int64: the likeliest, or one drawn from the softmax."""
        logits = self.head(hidden)
        if sampling is None:
            return logits.argmax(-1)
        reached = (logits.float() / sampling.temperature).softmax(-1).cumsum(-1)  # [B, A]
        below = (reached <= sampling.draws[:, None]).sum(-1)
        return below.clamp(max=logits.shape[-1] - 1)  # the sum may stay short of 1

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T] -> negative log-likelihood [B, T]."""
        return F.cross_entropy(self.head(hidden).transpose(1, 2), actions, reduction="none")


Actions = ContinuousActions | DiscreteActions
ACTIONS: dict[str, type[Actions]] = {
    "continuous": ContinuousActions,
    "discrete": DiscreteActions,
}


def make_actions(spec: Spec, width: int, embedded: bool = True) -> Actions:
    """What suits the data's actions; without `embed` where no action is ever an input."""
    return ACTIONS[spec.action_kind](spec.action_size, width, embedded)
