"""Action spaces: embedding, losses and choice of actions."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.models.fast.counter_rng import keys_of, mix, normals
from decision_seq.types import Batch, Sampling, Spec

LOG_STD = (-5.0, 2.0)  # lower and upper bound
MARGIN = 1e-6  # distance of clamped actions from -1 and 1, where atanh is infinite


class Actions(nn.Module):
    """Base class of a policy's actions: embeds them, computes their losses and chooses them.

    LOSSES: names of its losses. undecayed: parameters without weight decay.
    """

    LOSSES: tuple[str, ...] = ("action",)
    embed: nn.Linear | nn.Embedding
    head: nn.Linear

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        return ()

    def losses(self, hidden: Tensor, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """hidden [B, T, D] -> losses, name -> [B, T]; see `Policy.learn`."""
        return {"action": self.loss(hidden, batch.actions)}

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """The loss of actions, given hidden [B, T, D] -> [B, T]."""
        raise NotImplementedError

    def metrics(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """hidden [B, T, D] -> logged values without a gradient, name -> [B, T]."""
        return {}

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """hidden [B, D] -> actions [B, A] or [B]."""
        raise NotImplementedError


class ContinuousActions(Actions):
    """Actions in [-1, 1]: linear embedding, tanh head, mean squared error over the dimensions."""

    def __init__(self, size: int, width: int, embedded: bool = True) -> None:
        super().__init__()
        if embedded:
            self.embed = nn.Linear(size, width)
        self.head = nn.Linear(width, size)

    def predict(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> actions [..., A] in [-1, 1]."""
        return torch.tanh(self.head(hidden))

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """hidden [B, D] -> actions [B, A] float32, without sampling."""
        return self.predict(hidden).float()

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T, A] -> squared error [B, T]."""
        return (self.predict(hidden).to(actions.dtype) - actions).square().mean(-1)


class StochasticActions(ContinuousActions):
    """Actions in (-1, 1): tanh of a Gaussian with a diagonal covariance. It is the head of the
    Online Decision Transformer (Zheng et al., 2022), here for offline training.

    action: negative log-likelihood, summed over the dimensions. entropy: -lambda times the entropy,
    estimated from one sample, with gradients through the sample. temperature: lambda * (entropy -
    target), which trains lambda to hold the entropy at its target of -A. Padding does not count
    (the original averages the entropy over it too). Lambda is trained by the policy's optimizer,
    learning rate and clipping, without decay (the original uses a separate Adam at 1e-4).
    """

    LOSSES = ("action", "entropy", "temperature")

    def __init__(self, size: int, width: int, embedded: bool = True) -> None:
        super().__init__(size, width, embedded)
        self.log_std = nn.Linear(width, size)
        for layer in (self.head, self.log_std):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        # The logarithm of lambda, as a vector of one number because FSDP shards no scalar.
        self.log_temperature = nn.Parameter(torch.full((1,), math.log(0.1)))

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        return (self.log_temperature,)

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """hidden [B, D] -> actions [B, A] float32: the tanh of the mean, or of a sample.

        The sampling temperature multiplies the Gaussian's variance.
        """
        if sampling is None:
            return super().choose(hidden)
        mean, log_std = self.gaussian(hidden)
        drawn = normals(keys_of(sampling.draws), mean.shape[-1]) * math.sqrt(sampling.temperature)
        return torch.tanh(mean + log_std.exp() * drawn).float()

    def losses(self, hidden: Tensor, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        mean, log_std = (part.to(batch.actions.dtype) for part in self.gaussian(hidden))
        drawn = self._drawn(batch, rng).to(mean.dtype)
        entropy = -log_likelihood(mean + log_std.exp() * drawn, mean, log_std)
        taken = torch.atanh(batch.actions.clamp(MARGIN - 1, 1 - MARGIN))
        temperature = self.log_temperature.to(mean.dtype).exp()
        target = -mean.shape[-1]
        return {
            "action": -log_likelihood(taken, mean, log_std),
            "entropy": -temperature.detach() * entropy,
            "temperature": temperature * (entropy.detach() - target),
        }

    @torch.no_grad()
    def metrics(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """log_std: the logarithm of the standard deviation, averaged over the dimensions."""
        return {"log_std": self.gaussian(hidden)[1].float().mean(-1)}

    def gaussian(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [..., D] -> mean and logarithm of the standard deviation, [..., A] each."""
        low, high = LOG_STD
        inside = torch.tanh(self.log_std(hidden))
        return self.head(hidden), low + (high - low) / 2 * (inside + 1)

    def _drawn(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """Standard normal numbers [B, T, A]. Each depends on its transition's row in the store, and
        not on its position in the batch, the split of the batch or the padding."""
        salt = torch.randint(2**62, (), generator=rng, device=rng.device)
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        return normals(mix(batch.ids[:, None] + steps + salt), batch.actions.shape[-1])


def log_likelihood(before: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-likelihood of tanh(before) under the tanh of a Gaussian: [..., A] each -> [...]."""
    distance = (before - mean) / log_std.exp()
    density = -0.5 * distance.square() - log_std - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - before - F.softplus(-2 * before))  # log(1 - tanh(before)^2)
    return (density - slope).sum(-1)


class DiscreteActions(Actions):
    """One of A choices: embedding table, logits, cross-entropy."""

    def __init__(self, size: int, width: int, embedded: bool = True) -> None:
        super().__init__()
        if embedded:
            self.embed = nn.Embedding(size, width)
        self.head = nn.Linear(width, size)

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """hidden [B, D] -> actions [B] int64: the most likely, or sampled from the softmax."""
        logits = self.head(hidden)
        if sampling is None:
            return logits.argmax(-1)
        reached = (logits.float() / sampling.temperature).softmax(-1).cumsum(-1)  # [B, A]
        below = (reached <= sampling.draws[:, None]).sum(-1)
        return below.clamp(max=logits.shape[-1] - 1)  # the sum may be less than 1

    @torch.no_grad()
    def metrics(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """accuracy: 1 where the most likely action is the data's."""
        return {"accuracy": (self.head(hidden).argmax(-1) == batch.actions).float()}

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T] -> negative log-likelihood [B, T]."""
        return F.cross_entropy(self.head(hidden).transpose(1, 2), actions, reduction="none")


# Classes by the kind of action and the policy's `head`.
ACTIONS: dict[tuple[str, str], type[ContinuousActions | DiscreteActions]] = {
    ("continuous", "plain"): ContinuousActions,
    ("continuous", "stochastic"): StochasticActions,
    ("discrete", "plain"): DiscreteActions,
}
Head = Literal["plain", "stochastic"]


def make_actions(
    spec: Spec, width: int, embedded: bool = True, head: Head = "plain"
) -> ContinuousActions | DiscreteActions:
    """The module for the data's actions.

    embedded: whether it has `embed`; False where actions are never an input. UserError for a head
    that does not exist for the kind of action.
    """
    kind = spec.action_kind
    require((kind, head) in ACTIONS, f"config: policy.head {head} is not for {kind} actions")
    return ACTIONS[kind, head](spec.action_size, width, embedded)
