"""Decision Transformer (Chen et al., 2021): actions predicted from (return-to-go, state, action).

Source of the layout: kzl/decision-transformer gym/decision_transformer/models, atari/mingpt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.models.actions import Head, make_actions
from decision_seq.models.auxiliary.base import Features, Sizes
from decision_seq.models.backbones import BackboneConfig, GPTConfig
from decision_seq.models.backbones.base import State, reset_rows, unroll
from decision_seq.models.encoders import EncoderConfig, VectorConfig
from decision_seq.models.layers import Read
from decision_seq.models.positions import PositionsConfig, TimestepConfig
from decision_seq.policies.base import Learnt, Policy, PolicyConfig, begins_episode
from decision_seq.types import Batch, Sampling, Spec


@PolicyConfig.register_subclass("dt")
@dataclass(frozen=True)
class DecisionTransformerConfig(PolicyConfig):
    """A Decision Transformer."""

    gives_features: ClassVar[bool] = True
    fills_context: ClassVar[bool] = True

    backbone: BackboneConfig = field(default_factory=GPTConfig)
    """The sequence model."""
    encoder: EncoderConfig = field(default_factory=VectorConfig)
    """Encoder of an observation into a token."""
    positions: PositionsConfig = field(default_factory=TimestepConfig)
    """Position embedding of the tokens."""
    squash: bool = False
    """Whether a tanh follows every embedding: the paper's Atari model has it, its Gym model not."""
    head: Head = "plain"
    """`plain` predicts the action (a continuous one through a tanh), `linear` without the tanh,
    `stochastic` a distribution of continuous actions."""

    def make(self, spec: Spec) -> DecisionTransformer:
        return DecisionTransformer(self, spec)


class DecisionTransformer(Policy):
    """Decision Transformer over tokens R_1, s_1, a_1, R_2, s_2, a_2, ...

    Actions are predicted at the state tokens. The last action of a window is left out because no
    token follows it: L = 3T - 1. Without a condition there is no R and L = 2T - 1, which is
    behaviour cloning by a transformer. A backbone with episode memory reads all tokens, the last
    action before the next window's first token.
    """

    def __init__(self, config: DecisionTransformerConfig, spec: Spec) -> None:
        super().__init__()
        require(
            config.context_length <= spec.max_timestep,
            f"config: policy.context_length {config.context_length} exceeds the"
            f" {spec.max_timestep} timesteps of an episode",
        )
        self.config, self.spec = config, spec
        self.backbone = config.backbone.build()
        width = self.backbone.width
        conditioned = spec.condition_size > 0
        self.tokens_per_step = 3 if conditioned else 2
        self.embed_condition = nn.Linear(spec.condition_size, width) if conditioned else None
        self.encoder = config.encoder.build(spec.observation_shape, width)
        self.actions = make_actions(spec, width, head=config.head)
        if config.squash and spec.action_kind == "discrete":  # a larger std saturates tanh
            nn.init.normal_(self.actions.embed.weight, std=0.02)
        length = self.tokens_per_step * config.context_length
        self.positions = config.positions.build(length, spec.max_timestep, width)
        self.memory = self.backbone.memory
        require(
            self.memory == "window" or self.positions.lasting,
            "config: policy.positions: a backbone that remembers the episode needs positions that"
            " follow it, such as timestep",
        )
        # With one step in the window, no past action is an input.
        self.actions.embed.requires_grad_(config.context_length > 1)

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        self.encoder.fit(store)

    def counted(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return dict.fromkeys(self.actions.LOSSES, batch.mask)

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        encoded = self.encoded(batch)
        if self.memory == "window":
            hidden, _ = self.backbone(self.tokens(encoded), self.states)  # [B, T, D]
        else:
            hidden, state = self.unrolled(encoded, state)  # [B, T * M, D]
            hidden = hidden[:, self.states]
        features = Features(encoded.observations, hidden, self.encode)
        losses, metrics = (
            self.actions.losses(hidden, batch, rng),
            self.actions.metrics(hidden, batch),
        )
        return Learnt(losses, features, state, metrics)

    def unrolled(self, encoded: Batch, state: State | None) -> tuple[Tensor, State | None]:
        """Hidden states of all tokens, [B, T * M, D], and the initial state of the next windows."""
        if self.memory == "window":
            return self.backbone(self.all_tokens(encoded))
        count = self.tokens_per_step
        stride = self.config.context_length - self.burn_in  # from one segment to the next
        begins = encoded.timesteps[:, 0] == 0
        tokens = self.all_tokens(encoded)
        return unroll(self.backbone, tokens, state, begins, count * self.burn_in, count * stride)

    def feature_sizes(self) -> Sizes:
        return Sizes(self.backbone.width, self.backbone.width)

    def encoder_module(self) -> nn.Module:
        return self.encoder

    @property
    def states(self) -> slice:
        """The positions of the state tokens."""
        return slice(self.tokens_per_step - 2, None, self.tokens_per_step)

    def encode(self, observations: Tensor) -> Tensor:
        return self._squash(self.encoder(observations))

    def initial_state(self, rows: int) -> State | None:
        return self.backbone.initial_state(rows) if self.memory == "episode" else None

    def decide(
        self, batch: Batch, state: State | None = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, State | None]:
        if state is None:
            newest: Read = (self.tokens_per_step * batch.lengths - 2)[
                :, None
            ]  # [B, 1], its state token
            hidden, _ = self.backbone(self.tokens(batch), newest)
        else:
            hidden, state = self._step(batch, state)
        return self.actions.choose(hidden[:, 0], sampling), state

    def _step(self, batch: Batch, state: State) -> tuple[Tensor, State | None]:
        """Read the newest step of every row after the carried state -> hidden [B, 1, D].

        The action of the previous step is read first: it was not known when that step was read.
        """
        tokens = self.all_tokens(batch).unflatten(1, (-1, self.tokens_per_step))  # [B, T, M, D]
        rows = torch.arange(len(tokens), device=tokens.device)
        newest = batch.lengths - 1
        action = tokens[rows, (newest - 1).clamp(min=0), -1:]  # [B, 1, D]
        _, after = self.backbone(action, None, state)
        assert after is not None
        initial = self.backbone.initial_state(len(tokens))
        after = reset_rows(after, begins_episode(batch), initial)
        return self.backbone(tokens[rows, newest, :-1], slice(-1, None), after)

    def tokens(self, encoded: Batch) -> Tensor:
        """The steps' tokens, interleaved and with positions, [B, L, D]; without the last action,
        which no token follows."""
        return self.all_tokens(encoded)[:, :-1]

    def all_tokens(self, encoded: Batch) -> Tensor:
        """As `tokens`, with the last action, [B, L + 1, D]."""
        streams = [encoded.observations, self._squash(self.actions.embedded(encoded.actions))]
        if self.embed_condition is not None:
            streams.insert(0, self._squash(self.embed_condition(encoded.conditions)))
        return self.positions(torch.stack(streams, 2), encoded.timesteps)

    def _squash(self, tokens: Tensor) -> Tensor:
        return torch.tanh(tokens) if self.config.squash else tokens
