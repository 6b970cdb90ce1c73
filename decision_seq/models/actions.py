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


class ActionScale(nn.Module):
    """Linear map of continuous actions from the environment's units to [-1, 1], and back.

    It has no parameters and nothing to save: the range is part of the spec. Without a range both
    directions return their argument.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        for name, bound in zip(("low", "high"), spec.action_range or (None, None), strict=True):
            value = None if bound is None else torch.tensor(bound)  # [A]
            self.register_buffer(name, value, persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        """actions [..., A] in the environment's units -> [..., A], in [-1, 1] inside the range."""
        if self.low is None or self.high is None:
            return actions
        low, high = self.low.to(actions.dtype), self.high.to(actions.dtype)
        return (actions - low) / (high - low) * 2 - 1

    def inverse(self, scaled: Tensor) -> Tensor:
        """scaled [..., A] -> [..., A] in the environment's units."""
        if self.low is None or self.high is None:
            return scaled
        return self.low + (scaled + 1) / 2 * (self.high - self.low)


class Actions(nn.Module):
    """Base class of a policy's actions: embeds them, computes their losses and chooses them.

    Actions that enter and leave it are in the environment's units.

    LOSSES: names of its losses. undecayed: parameters without weight decay.
    """

    LOSSES: tuple[str, ...] = ("action",)
    embed: nn.Linear | nn.Embedding
    head: nn.Linear

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        return ()

    def embedded(self, actions: Tensor) -> Tensor:
        """actions [B, T, A] or [B, T] -> their embeddings [B, T, D]."""
        raise NotImplementedError

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
    """Continuous actions: linear embedding, tanh head, mean squared error over the dimensions.

    The network sees and predicts scaled actions, and the error is that of scaled actions.
    """

    def __init__(self, spec: Spec, width: int, embedded: bool = True) -> None:
        super().__init__()
        self.scale = ActionScale(spec)
        if embedded:
            self.embed = nn.Linear(spec.action_size, width)
        self.head = nn.Linear(width, spec.action_size)

    def embedded(self, actions: Tensor) -> Tensor:
        return self.embed(self.scale(actions))

    def predict(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scaled actions [..., A] in [-1, 1]."""
        return torch.tanh(self.head(hidden))

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """hidden [B, D] -> actions [B, A] float32, without sampling."""
        return self.scale.inverse(self.predict(hidden).float())

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T, A] -> squared error [B, T]."""
        return (self.predict(hidden).to(actions.dtype) - self.scale(actions)).square().mean(-1)


class LinearActions(ContinuousActions):
    """As the base class, with a linear head: predicted actions have no bounds."""

    def predict(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scaled actions [..., A]."""
        return self.head(hidden)


class StochasticActions(ContinuousActions):
    """Scaled actions in (-1, 1): tanh of a Gaussian with a diagonal covariance. It is the head of
    the Online Decision Transformer (Zheng et al., 2022), here for offline training.

    Densities are those of scaled actions.

    action: negative log-likelihood, summed over the dimensions. entropy: -lambda times the entropy,
    estimated from one sample, with gradients through the sample. temperature: lambda * (entropy -
    target), which trains lambda to hold the entropy at its target of -A. Padding does not count
    (the original averages the entropy over it too). Lambda is trained by the policy's optimizer,
    learning rate and clipping, without decay (the original uses a separate Adam at 1e-4).
    """

    LOSSES = ("action", "entropy", "temperature")

    def __init__(self, spec: Spec, width: int, embedded: bool = True) -> None:
        super().__init__(spec, width, embedded)
        self.log_std = nn.Linear(width, spec.action_size)
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
        return self.scale.inverse(torch.tanh(mean + log_std.exp() * drawn).float())

    def losses(self, hidden: Tensor, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        mean, log_std = (part.to(batch.actions.dtype) for part in self.gaussian(hidden))
        drawn = self._drawn(batch, rng).to(mean.dtype)
        entropy = -log_likelihood(mean + log_std.exp() * drawn, mean, log_std)
        taken = torch.atanh(self.scale(batch.actions).clamp(MARGIN - 1, 1 - MARGIN))
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

    def __init__(self, spec: Spec, width: int, embedded: bool = True) -> None:
        super().__init__()
        self.first = spec.first_choice
        if embedded:
            self.embed = nn.Embedding(spec.action_size, width)
        self.head = nn.Linear(width, spec.action_size)

    def embedded(self, actions: Tensor) -> Tensor:
        return self.embed(self._indices(actions))

    def _indices(self, actions: Tensor) -> Tensor:
        """Choices counted from 0; padding, which is 0, may be below the first choice."""
        return (actions - self.first).clamp(min=0) if self.first else actions

    def choose(self, hidden: Tensor, sampling: Sampling | None = None) -> Tensor:
        """hidden [B, D] -> actions [B] int64: the most likely, or sampled from the softmax."""
        logits = self.head(hidden)
        if sampling is None:
            return logits.argmax(-1) + self.first
        reached = (logits.float() / sampling.temperature).softmax(-1).cumsum(-1)  # [B, A]
        below = (reached <= sampling.draws[:, None]).sum(-1)
        return below.clamp(max=logits.shape[-1] - 1) + self.first  # the sum may be less than 1

    @torch.no_grad()
    def metrics(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """accuracy: 1 where the most likely action is the data's."""
        return {"accuracy": (self.choose(hidden) == batch.actions).float()}

    def loss(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """hidden [B, T, D], actions [B, T] -> negative log-likelihood [B, T]."""
        logits = self.head(hidden).transpose(1, 2)
        return F.cross_entropy(logits, self._indices(actions), reduction="none")


# Classes by the kind of action and the policy's `head`.
ACTIONS: dict[tuple[str, str], type[ContinuousActions | DiscreteActions]] = {
    ("continuous", "plain"): ContinuousActions,
    ("continuous", "linear"): LinearActions,
    ("continuous", "stochastic"): StochasticActions,
    ("discrete", "plain"): DiscreteActions,
}
Head = Literal["plain", "linear", "stochastic"]


def make_actions(
    spec: Spec, width: int, embedded: bool = True, head: Head = "plain"
) -> ContinuousActions | DiscreteActions:
    """The module for the data's actions.

    embedded: whether it has `embed`; False where actions are never an input. UserError for a head
    that does not exist for the kind of action.
    """
    kind = spec.action_kind
    require((kind, head) in ACTIONS, f"config: policy.head {head} is not for {kind} actions")
    return ACTIONS[kind, head](spec, width, embedded)
