"""Critics: value functions that are trained with a planning policy and score imagined steps.

To add one, write a module here and a frozen config that inherits `CriticConfig`, registers itself
and builds the module.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import draccus
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import Column, EpisodeStore
from decision_seq.models.actions import ActionScale
from decision_seq.models.encoders import Standardizer
from decision_seq.types import Batch, Spec

FIT_ROWS = 1 << 20  # transitions whose outcomes are read at a time


class Critic(nn.Module):
    """A value function of vector observations and continuous actions.

    The rules of a policy apply to it: `weights` depends on no parameter, the losses reach every
    trained parameter, and parameters that are not trained change only in `after_step`.
    """

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """Compute statistics of the data before training and store them in buffers.

        conditions: [N, C]; the first two columns are each step's reward and value.
        """
        raise NotImplementedError

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Weight of each step in each loss, name -> [B, T]; names begin with `critic_`."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unreduced losses with the same names, [B, T]."""
        raise NotImplementedError

    def onward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Expected discounted return from this step's reward on: [R, S], [R, A] -> [R]."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after every update of the weights."""


@dataclass(frozen=True)
class CriticConfig(draccus.ChoiceRegistry):
    """Hyper-parameters of a critic, and the only place of their defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "none"

    def build(self, spec: Spec) -> Critic | None:
        """Build the critic; None for no critic."""
        raise NotImplementedError


@CriticConfig.register_subclass("none")
@dataclass(frozen=True)
class NoCriticConfig(CriticConfig):
    """No critic: the policy estimates rewards and values by their tokens."""

    def build(self, spec: Spec) -> None:
        return None


@CriticConfig.register_subclass("iql")
@dataclass(frozen=True)
class IQLConfig(CriticConfig):
    """Settings of implicit Q-learning.

    Defaults: ikostrikov/implicit_q_learning configs/mujoco_config.py. Unlike there (Adam, 3e-4), it
    is trained with the optimizer, the learning rate and the clipping of the policy.
    """

    expectile: float = 0.7
    """Expectile of the state values; above 0.5 they lean to the returns of the data's better
    actions. The original uses 0.9 for AntMaze."""
    width: int = 256
    """Width of the two hidden layers."""
    rate: float = 0.005
    """Part of the difference by which the target networks approach the trained ones at each
    update."""

    def __post_init__(self) -> None:
        where = "config: policy.critic."
        fine = 0 < self.expectile < 1
        require(fine, f"{where}expectile {self.expectile} must be above 0 and below 1")
        require(self.width >= 1, f"{where}width {self.width} must be at least 1")
        require(0 < self.rate <= 1, f"{where}rate {self.rate} must be above 0, and 1 at most")

    def build(self, spec: Spec) -> IQL:
        return IQL(self, spec)


class IQL(Critic):
    """Implicit Q-learning (Kostrikov et al., 2021): the values of the best actions in the data.

    It never evaluates actions that are not in the data. A step is trained on if the window has its
    next observation, or if it terminates its episode; the last step of a window and one before a
    time limit are left out. All is computed in units of `scale`, and never in half precision,
    because small errors add up over a long bootstrap.
    """

    scale: Tensor

    def __init__(self, config: IQLConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.discount = config, spec.discount
        size = spec.observation_shape[0]
        self.standardize, self.scaled = Standardizer(size), ActionScale(spec)
        self.register_buffer("scale", torch.ones(()))
        self.v = Networks(1, size, config.width)
        self.q = Networks(2, size + spec.action_size, config.width)
        self.target_q = Networks(2, size + spec.action_size, config.width).requires_grad_(False)
        self.target_q.load_state_dict(self.q.state_dict())

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """Set the scale to the largest absolute discounted return of any step.

        With rare rewards the return of most steps is 0, and any mean would be far from the values
        to learn.
        """
        self.standardize.fit(store)
        largest = 0.0
        for start in range(0, store.num_transitions, FIT_ROWS):
            stop = min(start + FIT_ROWS, store.num_transitions)
            outcomes = conditions.rows(start, stop)
            returns = outcomes[:, 0] + self.discount * outcomes[:, 1]
            largest = max(largest, float(abs(returns).max()))
        self.scale.fill_(largest or 1.0)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        counted = _followed(batch.mask) | (batch.mask & batch.terminated)
        return dict.fromkeys(("critic_q", "critic_v"), counted)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        rewards = batch.conditions[..., 0] / self.scale
        with torch.autocast(rewards.device.type, enabled=False):
            states = self.standardize(batch.observations)
            pairs = torch.cat([states, self.scaled(batch.actions)], -1)
            values, (first, second) = self.v(states)[0], self.q(pairs)  # [B, T]
            advantages = self.target_q(pairs).amin(0) - values
            following = F.pad(values.detach()[:, 1:], (0, 1)) * _followed(batch.mask)
            goals = rewards + self.discount * following
            lean = (self.config.expectile - (advantages < 0).to(values)).abs()
            return {
                "critic_q": (first - goals) ** 2 + (second - goals) ** 2,
                "critic_v": lean * advantages**2,
            }

    def onward(self, observations: Tensor, actions: Tensor) -> Tensor:
        with torch.autocast(observations.device.type, enabled=False):
            pairs = torch.cat([self.standardize(observations), self.scaled(actions)], -1)
            return self.q(pairs).amin(0) * self.scale

    @torch.no_grad()
    def after_step(self) -> None:
        rate = self.config.rate
        pairs = zip(self.target_q.parameters(), self.q.parameters(), strict=True)
        for target, trained in pairs:
            target.mul_(1 - rate).add_(trained, alpha=rate)


class Networks(nn.Module):
    """`count` parallel networks of two hidden ReLU layers: [..., I] -> [count, ...].

    Their weights are not in linear layers, so `train.decay weights` does not decay them: values
    need not be small.
    """

    def __init__(self, count: int, inputs: int, width: int) -> None:
        super().__init__()
        sizes = list(itertools.pairwise((inputs, width, width, 1)))
        self.weights = nn.ParameterList(_uniform(a, count, a, b) for a, b in sizes)
        self.biases = nn.ParameterList(_uniform(a, count, 1, b) for a, b in sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        hidden = rows.expand(len(self.weights[0]), -1, -1)  # [count, R, I]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.relu() if layer else hidden, weight)
        return hidden.view(len(hidden), *inputs.shape[:-1])


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    """A parameter, initialized like those of PyTorch's linear layers."""
    return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5))


def _followed(mask: Tensor) -> Tensor:
    """Mask [B, T] of the steps whose next step is in the window."""
    return mask & F.pad(mask[:, 1:], (0, 1))
