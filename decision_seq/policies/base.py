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
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.models.auxiliary.base import Auxiliary, AuxiliaryConfig, Features, Sizes
from decision_seq.models.backbones.base import State
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.sequences.conditioning.base import HINDSIGHT_ONLY
from decision_seq.types import Batch, Episode, Sampling, Spec, UserError

ActionScaling = Literal["space", "data", "none"]
# name -> values [B, T]; `training.update.masked_mean` reduces them, with the policy's weights.
Losses = dict[str, Tensor]


class Learnt(NamedTuple):
    """Output of a policy for a training batch.

    losses: name -> [B, T], unreduced and without their factors (`Policy.loss_weights`).
    features: input of the auxiliary losses; None for a policy without features.
    state: initial state of the next windows of the same rows; None where no state is carried.
    metrics: name -> [B, T], logged as means over the real steps; no gradient flows from them.
    """

    losses: Losses
    features: Features | None = None
    state: State | None = None
    metrics: Losses | None = None


class Policy(nn.Module):
    """Base class of policies: a module that maps a batch to named losses or to actions.

    A subclass implements `counted`, `learn`, `encode`, `decide` and `fit`. The base class provides
    `weights` and `forward`, which add the auxiliary losses and apply the burn-in.

    A batch may be split into parts (ranks, micro-batches). `weights` gives the weight of each step
    before any part goes through the network, so every part is divided by the sum over the whole
    batch.

    futures: see `PolicyConfig`. burn_in: see `PolicyConfig`. memory: with `window`, a rollout
    passes the last K steps to `decide`; with `episode`, the last two, and `decide` carries a state
    over the episode. loss_weights: factors of the losses in the sum that is minimised, 1 where
    absent.
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

    # Implemented by subclasses.

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """Compute statistics of the data before training and store them in buffers.

        conditions: the labels of every transition, [N, C], from `sequences.conditioning.label`.
        """
        raise NotImplementedError

    def counted(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The weight of each step in each loss, name -> [B, T], computed without parameters.

        rng: has the same seed as in `learn`, so both can draw the same numbers (masked positions).
        The seed is also the same for every part of a batch, so the numbers drawn for a step must
        depend on `Batch.ids`.
        """
        return {"action": batch.mask}

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """A torch batch [B, T] -> losses with the names of `counted`, features, state, metrics.

        rng: generator of the policy's own random numbers; dropout draws from torch's generator.
        The loss `action` of a discrete action must be its negative log-likelihood: `offline` reads
        it. state: the state after the previous windows of the same rows, where the sampler is
        consecutive; rows that begin an episode ignore it.
        """
        raise NotImplementedError

    def encode(self, observations: Tensor) -> Tensor:
        """Encoded observations, [B, T, F], each independent of the others and of its position.

        A rollout encodes each observation once.
        """
        raise NotImplementedError

    def decide(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Any]:
        """Actions [B, A] or [B] at the newest step of each row, and the state after it (or None).

        batch: its observations are encoded. state: `initial_state` at a rollout's first step,
        then the state that `decide` returned at the previous step. The order of the rows does not
        change, and a row whose newest timestep is 0 begins an episode. Without a state, the batch
        is the policy's only input. sampling: how actions, or the tokens of plans, are sampled; None
        for the most likely ones.
        """
        raise NotImplementedError

    def initial_state(self, rows: int) -> Any:
        """The state that `decide` receives at a rollout's first step; None for no state."""
        return None

    def shown_steps(self, context_length: int) -> int:
        """Number of the newest steps that a rollout passes to `decide`."""
        return context_length if self.memory == "window" else 2

    def hindsight(self, batch: Batch) -> Batch:
        """The training batch with the conditions that `learn` uses: its own, or those that the
        policy computes from later steps in the data."""
        return batch

    def conditioning(self, given: Conditioning) -> Conditioning:
        """The conditioning of a rollout: `given`, or the policy's own."""
        return given

    def relabel(self, conditioning: Conditioning, episode: Episode) -> np.ndarray:
        """The conditions of a target trajectory, [T, C]: its labels, or the policy's own."""
        return conditioning.relabel(episode)

    def feature_sizes(self) -> Sizes:
        """Widths of `Learnt.features`; called only where the config has `gives_features`."""
        raise NotImplementedError

    def encoder_module(self) -> nn.Module:
        """The module that `encode` uses; auxiliary losses may use a slowly moving copy of it."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of trained parameters, each with its own optimizer settings.

        By default one group; a group without `weight_decay` is split by `train.decay`.
        """
        return [{"params": [weight for weight in self.parameters() if weight.requires_grad]}]

    def after_step(self) -> None:
        """Hook called after every update of the weights; overrides must call the base method."""
        for _, auxiliary in self._auxiliaries():
            auxiliary.after_step()
        self._move_momentum()

    # Provided by the base class.

    @final
    def weights(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The weight of each step in every loss, auxiliary ones included, name -> [B, T].

        Steps of the burn-in have weight 0, except in windows that begin an episode.
        """
        weights = dict(self.counted(batch, rng))
        for label, auxiliary in self._auxiliaries():
            weights[label] = auxiliary.counted(batch, self._generator_of(rng, label))
        if self.burn_in == 0:
            return weights
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        past = (steps >= self.burn_in) | (batch.timesteps[:, :1] == 0)
        return {name: values * past for name, values in weights.items()}

    def forward(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """As `learn`, with the auxiliary losses and without the features."""
        learnt = self.learn(batch, rng, state)
        losses = dict(learnt.losses)
        if len(self.auxiliary):
            assert learnt.features is not None
            momentum = None if self.momentum_encoder is None else self._encoded_by_momentum
            features = learnt.features._replace(momentum=momentum)
            for label, auxiliary in self._auxiliaries():
                losses[label] = auxiliary.learn(features, batch, self._generator_of(rng, label))
        return learnt._replace(losses=losses, features=None)

    @final
    def add_auxiliary(self, configs: dict[str, AuxiliaryConfig]) -> None:
        """Build the auxiliary losses by label. Called once, when the policy is built."""
        for label, config in configs.items():
            auxiliary = config.build(self.spec, self.feature_sizes())
            self.auxiliary[label] = auxiliary
            self.loss_weights[label] = config.weight
        if self._momenta():
            require(
                len(self._momenta()) == 1,
                "config: policy.auxiliary: the losses ask for copies of the encoder that move at"
                f" different rates ({', '.join(map(str, sorted(self._momenta())))}); give them one",
            )
            self.momentum_encoder = copy.deepcopy(self.encoder_module()).requires_grad_(False)

    def act(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Any]:
        """As `decide`, for a batch whose observations are not encoded."""
        return self.decide(self.encoded(batch), state, sampling)

    def encoded(self, batch: Batch) -> Batch:
        """The batch with encoded observations."""
        return replace(batch, observations=self.encode(batch.observations))

    def _auxiliaries(self) -> Iterator[tuple[str, Auxiliary]]:
        for label, module in self.auxiliary.items():
            assert isinstance(module, Auxiliary)
            yield label, module

    @staticmethod
    def _generator_of(rng: torch.Generator, label: str) -> torch.Generator:
        """A separate generator for an auxiliary loss, the same in `weights` and `forward`."""
        seed = rng.initial_seed() ^ zlib.crc32(label.encode())
        return torch.Generator(rng.device).manual_seed(seed)

    def _encoded_by_momentum(self, observations: Tensor) -> Tensor:
        assert self.momentum_encoder is not None
        pairs = zip(self.momentum_encoder.buffers(), self.encoder_module().buffers(), strict=True)
        with torch.no_grad():
            for buffer, fitted in pairs:  # the encoder may have been fitted after the copy
                buffer.copy_(fitted)
            return self.momentum_encoder(observations)

    @torch.no_grad()
    def _move_momentum(self) -> None:
        if self.momentum_encoder is None:
            return
        (momentum,) = self._momenta()
        pairs = zip(
            self.momentum_encoder.parameters(), self.encoder_module().parameters(), strict=True
        )
        for slow, trained in pairs:
            slow.lerp_(trained, 1 - momentum)

    def _momenta(self) -> set[float]:
        """The decays of the encoder's slowly moving copy that the auxiliary losses ask for."""
        return {a.momentum for _, a in self._auxiliaries() if a.momentum is not None}


def begins_episode(batch: Batch) -> Tensor:
    """Whether the newest step of each row is the first of its episode, [B]."""
    newest = (batch.lengths - 1)[:, None]
    return batch.timesteps.gather(1, newest)[:, 0] == 0


@dataclass(frozen=True)
class PolicyConfig(draccus.ChoiceRegistry):
    """A policy's hyper-parameters, with their defaults.

    The class attributes describe an entry of the registry, for checks and for the contract tests.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the labels that the policy learns from; they come first in a condition."""
    takes: ClassVar[tuple[str, ...] | None] = None
    """Names of the other labels that it can use; None for all that a rollout knows."""
    actions: ClassVar[tuple[str, ...]] = ("continuous", "discrete")
    """Kinds of actions that it can be built for."""
    observations: ClassVar[tuple[str, ...]] = ("vector", "frames")
    """Kinds of observations that it can be built for."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Fields of a `Batch` that it does not read."""
    fills_context: ClassVar[bool] = False
    """Whether its context must not be longer than the longest episode."""
    gives_features: ClassVar[bool] = False
    """Whether auxiliary losses can be added to it."""
    example: ClassVar[dict[str, Any]] = {}
    """Settings of a small policy, for the contract tests."""

    context_length: int = 20
    """K, the steps in a training window and in the context of a rollout."""
    action_scale: ActionScaling = field(default="space", kw_only=True)
    """Range of continuous actions that is scaled to [-1, 1] inside the policy: the bounds of the
    action `space` where they are known (else the data's range, if it leaves [-1, 1]), the range of
    the `data`, or `none` for unscaled actions."""
    burn_in: int = field(default=0, kw_only=True)
    """Steps at the start of a window that only refresh the state. They count in no loss, except in
    windows that begin an episode. With `windows segments` consecutive windows overlap by them."""
    auxiliary: dict[str, AuxiliaryConfig] = field(default_factory=dict, kw_only=True)
    """Auxiliary losses by label, such as {inverse: {name: inverse_dynamics, weight: 0.1}}."""

    def __post_init__(self) -> None:
        length = self.context_length
        require(length >= 1, f"config: policy.context_length {length} must be at least 1")
        most = 100_000  # longer windows exhaust the memory
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
        """Number of observations after a window that are gathered with it for training."""
        return 0

    @property
    def forwards(self) -> float:
        """Forward passes of a whole window that an action takes in a rollout, to predict its time.

        A window is read out at its newest step alone, and much of it may be cached.
        """
        return 0.5

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
        """The untrained policy, for data that it can be built for."""
        raise NotImplementedError


def check_labels(policy: PolicyConfig, conditioning: Conditioning) -> None:
    """Raise UserError unless the policy can use the conditioning's labels, by name."""
    if policy.accepts(conditioning.fields):
        return
    found = ", ".join(conditioning.fields) or "nothing"
    wanted = f"needs the labels {', '.join(policy.needs)}" if policy.needs else "cannot use them"
    if set(conditioning.fields) & HINDSIGHT_ONLY and not policy.needs:
        wanted = "would need them as input, and they are unknown in a rollout"
    known = Conditioning.get_known_choices()
    fitting = " or ".join(sorted(n for n, cls in known.items() if policy.accepts(cls.fields)))
    raise UserError(
        f"config: conditioning.name {Conditioning.get_choice_name(type(conditioning))} gives"
        f" {found}; the policy {PolicyConfig.get_choice_name(type(policy))} {wanted}: take"
        f" --conditioning.name {fitting}"
    )
