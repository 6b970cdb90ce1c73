"""The contract of a policy."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, final

import draccus
import numpy as np
import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.conditioning import HINDSIGHT_ONLY, Conditioning
from decision_seq.data.store import Column, EpisodeStore
from decision_seq.models.auxiliary.base import Auxiliary, AuxiliaryConfig, Features, Sizes
from decision_seq.models.backbones.base import State
from decision_seq.types import Batch, Episode, Sampling, Spec, UserError

# name -> values [B, T]; reduced once, by `train.update.masked_mean`, with the policy's weights.
Losses = dict[str, Tensor]


class Learnt(NamedTuple):
    """What a policy computes of a training batch.

    losses: name -> [B, T], unreduced and without their factors (`Policy.loss_weights`).
    features: what auxiliary losses read; None where the policy has none to give.
    state: what the next windows of the same rows begin with; None where nothing is carried.
    metrics: name -> [B, T], logged as means over the real steps; nothing is learnt from them.
    """

    losses: Losses
    features: Features | None = None
    state: State | None = None
    metrics: Losses | None = None


class Policy(nn.Module):
    """Embeds a batch, lays it out as tokens, and returns named losses or actions.

    A subclass gives `counted`, `learn`, `encode`, `decide` and `fit`. `weights` and `forward` are
    the base class's own: they add the auxiliary losses and apply the burn-in.

    A batch may come in parts (ranks, micro-batches): what each step counts is known from `weights`
    before any part goes through the network, so every part is divided by the whole batch's sum.

    futures: see `PolicyConfig`. memory: `window`, a rollout shows `decide` the last K steps;
    `episode`, the last two, and `decide` carries a state over the episode. loss_weights: factors
    of the losses in the sum that is minimised, 1 where absent.
    """

    spec: Spec
    futures: int = 0
    burn_in: int = 0
    memory: Literal["window", "episode"] = "window"

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.ModuleDict()
        self.momentum_encoder: nn.Module | None = None
        self.loss_weights: dict[str, float] = {}

    # What a subclass gives.

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """Take from the data what must be known before training: statistics, into buffers.

        conditions: the labels of every transition, [N, C], as `data.conditioning.label` gives them.
        """
        raise NotImplementedError

    def counted(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """What each step counts in each loss, name -> [B, T]: computed without parameters.

        rng: seeded as `learn` finds it, so what is drawn here (masked positions) is drawn alike;
        and alike for every part of a batch, so what a step draws must follow from `Batch.ids`.
        """
        return {"action": batch.mask}

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """A torch batch [B, T] -> losses of the names of `counted`, features, state, metrics.

        rng: supplies what a policy draws itself; dropout draws from torch's own generator. The loss
        `action` of a discrete action is its negative log-likelihood, which `offline` reads there.
        state: what the rows' former windows left, where the sampler is consecutive; rows that begin
        an episode take no notice of it.
        """
        raise NotImplementedError

    def encode(self, observations: Tensor) -> Tensor:
        """Encoded observations, [B, T, F]: each by itself, whatever its place.

        A rollout encodes an observation once, when it is new.
        """
        raise NotImplementedError

    def decide(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Any]:
        """Actions [B, A] or [B] at the newest step of each row, and the state after it (or None).

        batch: its observations are encoded. state: `initial_state` before a rollout's first step,
        then what `decide` returned at the step before: rows keep their place, and a row whose
        newest timestep is 0 begins an episode. Without a state, all that a policy knows is in the
        batch. sampling: of actions, or of what plans imagine; None takes the likeliest.
        """
        raise NotImplementedError

    def initial_state(self, rows: int) -> Any:
        """What `decide` receives at a rollout's first step; None where it needs nothing."""
        return None

    def shown_steps(self, context_length: int) -> int:
        """How many of the newest steps a rollout shows to `decide`."""
        return context_length if self.memory == "window" else 2

    def hindsight(self, batch: Batch) -> Batch:
        """The training batch with the conditions that `learn` uses: its own, or those that the
        policy makes from what follows in the data."""
        return batch

    def conditioning(self, given: Conditioning) -> Conditioning:
        """The conditioning of a rollout: `given`, or the policy's own."""
        return given

    def relabel(self, conditioning: Conditioning, episode: Episode) -> np.ndarray:
        """The conditions of a target trajectory, [T, C]: its labels, or the policy's own."""
        return conditioning.relabel(episode)

    def feature_sizes(self) -> Sizes:
        """Widths of `Learnt.features`; asked only of policies whose configuration promises them."""
        raise NotImplementedError

    def encoder_module(self) -> nn.Module:
        """The module behind `encode`, of which auxiliary losses may ask a slowly moving copy."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of trained parameters with settings of their own for the optimizer.

        By default one group; a group without `weight_decay` is split by `train.decay`.
        """
        return [{"params": [weight for weight in self.parameters() if weight.requires_grad]}]

    def after_step(self) -> None:
        """Called after every update of the weights; a subclass calls its base class's."""
        for _, auxiliary in self._auxiliaries():
            auxiliary.after_step()
        self._move_momentum()

    # What the base class does with it.

    @final
    def weights(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """What each step counts in every loss, auxiliary ones too, name -> [B, T].

        Steps of the burn-in count nothing, but in windows that begin an episode.
        """
        weights = dict(self.counted(batch, rng))
        for label, auxiliary in self._auxiliaries():
            weights[label] = auxiliary.counted(batch, self._apart(rng, label))
        if self.burn_in == 0:
            return weights
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        past = (steps >= self.burn_in) | (batch.timesteps[:, :1] == 0)
        return {name: values * past for name, values in weights.items()}

    def forward(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """As `learn`, with the auxiliary losses, and without the features that they have read."""
        learnt = self.learn(batch, rng, state)
        losses = dict(learnt.losses)
        if len(self.auxiliary):
            assert learnt.features is not None
            momentum = None if self.momentum_encoder is None else self._encoded_by_momentum
            features = learnt.features._replace(momentum=momentum)
            for label, auxiliary in self._auxiliaries():
                losses[label] = auxiliary.learn(features, batch, self._apart(rng, label))
        return learnt._replace(losses=losses, features=None)

    @final
    def add_auxiliary(self, configs: dict[str, AuxiliaryConfig]) -> None:
        """Build the auxiliary losses, by label; called once, when the policy is built."""
        for label, config in configs.items():
            auxiliary = config.build(self.spec, self.feature_sizes())
            self.auxiliary[label] = auxiliary
            self.loss_weights[label] = config.weight
            if auxiliary.momentum is not None and self.momentum_encoder is None:
                self.momentum_encoder = copy.deepcopy(self.encoder_module()).requires_grad_(False)

    def act(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Any]:
        """As `decide`, from observations that are not encoded."""
        return self.decide(self.encoded(batch), state, sampling)

    def encoded(self, batch: Batch) -> Batch:
        """The batch with encoded observations."""
        return replace(batch, observations=self.encode(batch.observations))

    def _auxiliaries(self) -> Iterator[tuple[str, Auxiliary]]:
        for label, module in self.auxiliary.items():
            assert isinstance(module, Auxiliary)
            yield label, module

    @staticmethod
    def _apart(rng: torch.Generator, label: str) -> torch.Generator:
        """A generator of an auxiliary loss's own: the same for `weights` and `forward`."""
        seed = rng.initial_seed() ^ zlib.crc32(label.encode())
        return torch.Generator(rng.device).manual_seed(seed)

    def _encoded_by_momentum(self, observations: Tensor) -> Tensor:
        assert self.momentum_encoder is not None
        with torch.no_grad():
            return self.momentum_encoder(observations)

    @torch.no_grad()
    def _move_momentum(self) -> None:
        if self.momentum_encoder is None:
            return
        decays = [a.momentum for _, a in self._auxiliaries() if a.momentum is not None]
        pairs = zip(
            self.momentum_encoder.parameters(), self.encoder_module().parameters(), strict=True
        )
        for slow, trained in pairs:
            slow.lerp_(trained, 1 - max(decays))


def begins_episode(batch: Batch) -> Tensor:
    """[B]: whether the newest step of each row is the first of its episode."""
    newest = (batch.lengths - 1)[:, None]
    return batch.timesteps.gather(1, newest)[:, 0] == 0


@dataclass(frozen=True)
class PolicyConfig(draccus.ChoiceRegistry):
    """A policy's hyper-parameters and the only place of their defaults.

    What an entry of the registry says of itself, for checks and for the contract tests:
    needs: labels that the policy learns from, by name; they come first in a condition. takes: the
    other labels that it can use; None for any that a rollout knows. actions, observations: the
    kinds it can be built for. ignores: fields of a `Batch` that it leaves out by design.
    gives_features: whether auxiliary losses can be added. example: settings that make it small.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...] | None] = None
    actions: ClassVar[tuple[str, ...]] = ("continuous", "discrete")
    observations: ClassVar[tuple[str, ...]] = ("vector", "frames")
    ignores: ClassVar[tuple[str, ...]] = ()
    gives_features: ClassVar[bool] = False
    example: ClassVar[dict[str, Any]] = {}

    context_length: int = 20
    """K, the steps in a training window and in the context of a rollout."""
    burn_in: int = field(default=0, kw_only=True)
    """Steps at the start of a window that only refresh the state: they count in no loss, unless the
    window begins an episode. With `windows segments` consecutive windows share them."""
    auxiliary: dict[str, AuxiliaryConfig] = field(default_factory=dict, kw_only=True)
    """Auxiliary losses by label, as {inverse: {name: inverse_dynamics, weight: 0.1}}."""

    def __post_init__(self) -> None:
        length = self.context_length
        require(length >= 1, f"config: policy.context_length {length} must be at least 1")
        most = 100_000  # else windows are laid out until memory ends
        require(length <= most, f"config: policy.context_length {length} must be at most {most:,}")
        burn_in = self.burn_in
        require(
            0 <= burn_in < length,
            f"config: policy.burn_in {burn_in} must be 0 or above, and below policy.context_length"
            f" {length}",
        )
        name = PolicyConfig.get_choice_name(type(self))
        require(
            self.gives_features or not self.auxiliary,
            f"config: policy.auxiliary: the policy {name} has no features to learn from",
        )
        taken = {"action", "entropy", "temperature", "return"}
        for label in self.auxiliary:
            sound = label.isidentifier() and label not in taken
            require(sound, f"config: policy.auxiliary: {label!r} cannot name a loss; take another")

    @classmethod
    def default_choice_name(cls) -> str:
        return "dt"

    @property
    def futures(self) -> int:
        """How many observations behind a window are gathered with it for training."""
        return 0

    @classmethod
    def accepts(cls, fields: tuple[str, ...]) -> bool:
        """Whether the policy can be trained on a conditioning with these fields."""
        count = len(cls.needs)
        others = set(fields[count:])
        if fields[:count] != cls.needs:
            return False
        return not others & HINDSIGHT_ONLY if cls.takes is None else others <= set(cls.takes)

    @final
    def build(self, spec: Spec) -> Policy:
        """The untrained policy, with its auxiliary losses; UserError where the data do not fit."""
        name = PolicyConfig.get_choice_name(type(self))
        kind = {1: "vector", 3: "frames"}.get(len(spec.observation_shape), "other")
        require(
            kind in self.observations,
            f"config: policy {name} needs {' or '.join(self.observations)} observations, not ones"
            f" of shape {list(spec.observation_shape)}",
        )
        require(
            spec.action_kind in self.actions,
            f"config: policy {name} needs {' or '.join(self.actions)} actions, and the data's are"
            f" {spec.action_kind}",
        )
        policy = self.make(spec)
        policy.burn_in = self.burn_in
        policy.add_auxiliary(self.auxiliary)
        return policy

    def make(self, spec: Spec) -> Policy:
        """The policy itself, for data that fit."""
        raise NotImplementedError


def check_labels(policy: PolicyConfig, conditioning: Conditioning) -> None:
    """UserError unless the conditioning's labels, by name, are those that the policy can use."""
    if policy.accepts(conditioning.fields):
        return
    found = ", ".join(conditioning.fields) or "nothing"
    wanted = f"needs the labels {', '.join(policy.needs)}" if policy.needs else "cannot use them"
    if set(conditioning.fields) & HINDSIGHT_ONLY and not policy.needs:
        wanted = "would have to know them when it acts, and no rollout does"
    known = Conditioning.get_known_choices()
    fitting = " or ".join(sorted(n for n, cls in known.items() if policy.accepts(cls.fields)))
    raise UserError(
        f"config: conditioning.name {Conditioning.get_choice_name(type(conditioning))} gives"
        f" {found}; the policy {PolicyConfig.get_choice_name(type(policy))} {wanted}: take"
        f" --conditioning.name {fitting}"
    )
