"""Critics: learnt beside a policy that plans, they tell what an imagined step is worth.

To add one: a module here, and a frozen config that inherits `CriticConfig`, registers itself and
builds it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import draccus
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.columns import Column
from decision_seq.data.store import EpisodeStore
from decision_seq.models.encoders import Standardizer
from decision_seq.types import Batch, Spec

FIT_ROWS = 1 << 20  # transitions whose outcomes are looked at at a time


class Critic(nn.Module):
    """A value function of vector observations and continuous actions.

    What a policy is held to holds for it: `weights` knows no parameter, the losses reach all that
    is trained, and what is not trained changes in `after_step` alone.
    """

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """Take from the data what must be known before training, into buffers.

        conditions: [N, C], of which the first two are each step's reward and value.
        """
        raise NotImplementedError

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """What each step counts in each loss, name -> [B, T]; names begin with `critic_`."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of the same names, [B, T], unreduced."""
        raise NotImplementedError

    def onward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[R, S], [R, A] -> [R]: the expected discounted return from this step's reward on."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after every update of the weights."""


@dataclass(frozen=True)
class CriticConfig(draccus.ChoiceRegistry):
    """A critic's hyper-parameters and the only place of their defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "none"

    def build(self, spec: Spec) -> Critic | None:
        """None where there is to be no critic."""
        raise NotImplementedError


@CriticConfig.register_subclass("none")
@dataclass(frozen=True)
class NoCriticConfig(CriticConfig):
    """The policy itself tells what its steps are worth."""

    def build(self, spec: Spec) -> None:
        return None


@CriticConfig.register_subclass("iql")
@dataclass(frozen=True)
class IQLConfig(CriticConfig):
    """expectile: above 0.5 the value of a state leans to what the data's better actions bring;
    width: of two hidden layers; rate: at which the target networks follow, an update.

    Defaults: ikostrikov/implicit_q_learning configs/mujoco_config.py; its AntMaze has 0.9. Unlike
    there (Adam, 3e-4) it learns by the optimiser, the learning rate and the clipping of the policy.
    """

    expectile: float = 0.7
    width: int = 256
    rate: float = 0.005

    def __post_init__(self) -> None:
        where = "config: policy.critic."
        fine = 0 < self.expectile < 1
        require(fine, f"{where}expectile {self.expectile} must be above 0 and below 1")
        require(self.width >= 1, f"{where}width {self.width} must be at least 1")
        require(0 < self.rate <= 1, f"{where}rate {self.rate} must be above 0, and 1 at most")

    def build(self, spec: Spec) -> IQL:
        return IQL(self, spec)


class IQL(Critic):
    """Implicit Q-learning (Kostrikov et al., 2021): what the best actions among the data's bring,
    without asking for any that the data do not hold.

    A step is learnt from with the observation that the window has next, or as the last of its
    episode; the last of a window, and one before a time limit, have neither. All is computed in
    units of `scale`, and never in half precision: small errors add up over a long bootstrap.
    """

    scale: Tensor

    def __init__(self, config: IQLConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.discount = config, spec.discount
        size = spec.observation_shape[0]
        self.standardize = Standardizer(size)
        self.register_buffer("scale", torch.ones(()))
        self.v = Networks(1, size, config.width)
        self.q = Networks(2, size + spec.action_size, config.width)
        self.target_q = Networks(2, size + spec.action_size, config.width).requires_grad_(False)
        self.target_q.load_state_dict(self.q.state_dict())

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """The scale is the largest discounted return of any step, of either sign.

        Where rewards are rare, that of most steps is 0: any mean would be far from what is learnt.
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
            pairs = torch.cat([states, batch.actions], -1)
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
            pairs = torch.cat([self.standardize(observations), actions], -1)
            return self.q(pairs).amin(0) * self.scale

    @torch.no_grad()
    def after_step(self) -> None:
        rate = self.config.rate
        pairs = zip(self.target_q.parameters(), self.q.parameters(), strict=True)
        for target, trained in pairs:
            target.mul_(1 - rate).add_(trained, alpha=rate)


class Networks(nn.Module):
    """`count` networks of two hidden ReLU layers side by side: [..., I] -> [count, ...].

    Their weights are no linear layers', which `train.decay weights` draws to 0: values have no
    reason to be small.
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
    """As PyTorch's linear layers begin."""
    return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5))


def _followed(mask: Tensor) -> Tensor:
    """[B, T]: whether a window has the step after this one."""
    return mask & F.pad(mask[:, 1:], (0, 1))
