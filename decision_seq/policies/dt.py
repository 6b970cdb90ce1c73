"""Decision Transformer (Chen et al., 2021): actions predicted from (return-to-go, state, action).

Facts of the layout: kzl/decision-transformer gym/decision_transformer/models, atari/mingpt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.store import Column, EpisodeStore
from decision_seq.models.actions import Head, make_actions
from decision_seq.models.backbones import BackboneConfig, GPTConfig
from decision_seq.models.backbones.base import Carried
from decision_seq.models.encoders import EncoderConfig, VectorConfig
from decision_seq.models.layers import Read, select
from decision_seq.models.positions import PositionsConfig, TimestepConfig
from decision_seq.policies.base import Losses, Policy, PolicyConfig
from decision_seq.types import Batch, Sampling, Spec


@PolicyConfig.register_subclass("dt")
@dataclass(frozen=True)
class DecisionTransformerConfig(PolicyConfig):
    """squash: a tanh behind every embedding, as the paper's Atari model has and its Gym one not;
    head: `plain` predicts the action, `stochastic` a distribution of continuous ones.
    """

    backbone: BackboneConfig = field(default_factory=GPTConfig)
    encoder: EncoderConfig = field(default_factory=VectorConfig)
    positions: PositionsConfig = field(default_factory=TimestepConfig)
    squash: bool = False
    head: Head = "plain"

    def build(self, spec: Spec) -> DecisionTransformer:
        return DecisionTransformer(self, spec)


class State(NamedTuple):
    """What a Decision Transformer carries from step to step."""

    carried: Carried
    # By a context's length, where its newest tokens are: those of the newest step without its
    # action, behind the action before it, known by now; [K + 1, M].
    newest: Tensor


class DecisionTransformer(Policy):
    """Tokens R_1, s_1, a_1, R_2, s_2, a_2, ...; the action is read at the state token.

    The last action of a window is nobody's input, so it is not laid out: L = 3T - 1. Where nothing
    conditions the policy there is no R, and L = 2T - 1: behaviour cloning by a transformer.
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
        if config.squash and spec.action_kind == "discrete":  # else tanh would saturate
            nn.init.normal_(self.actions.embed.weight, std=0.02)
        length = self.tokens_per_step * config.context_length
        self.positions = config.positions.build(length, spec.max_timestep, width)
        # With one step in the window no past action is ever an input.
        self.actions.embed.requires_grad_(config.context_length > 1)

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        self.encoder.fit(store)

    def weights(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return dict.fromkeys(self.actions.LOSSES, batch.mask)

    def forward(self, batch: Batch, rng: torch.Generator) -> Losses:
        hidden = self.backbone(self.tokens(self.encoded(batch)), self.states)  # [B, T, D]
        return self.actions.losses(hidden, batch, rng)

    @property
    def states(self) -> slice:
        """Where the states' tokens are."""
        return slice(self.tokens_per_step - 2, None, self.tokens_per_step)

    def encode(self, observations: Tensor) -> Tensor:
        return self._squash(self.encoder(observations))

    def carry(
        self,
        tables: int,
        rows: int,
        context_length: int,
        precision: torch.dtype = torch.float32,
    ) -> Sequence[State | None]:
        """A subclass whose tokens depend on their window, or that reads others, carries nothing."""
        count, carried = self.tokens_per_step, None
        if self.positions.lasting:
            carried = self.backbone.slide(tables, rows, context_length, count, precision)
        if carried is None:
            return super().carry(tables, rows, context_length, precision)
        device = self.actions.head.weight.device
        firsts = count * torch.arange(-1, max(context_length, 2), device=device)[:, None]
        newest = (firsts + torch.arange(-1, count - 1, device=device)).clamp_(min=0)
        return [State(each, newest) for each in carried]

    def decide(
        self, batch: Batch, state: State | None = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, State | None]:
        lengths = batch.lengths
        if state is None:
            newest: Read = (self.tokens_per_step * lengths - 2)[:, None]  # [B, 1], its state's
            hidden = self.backbone(self.tokens(batch), newest)[:, 0]
        else:
            tokens = select(self.all_tokens(batch), state.newest.index_select(0, lengths))
            hidden = state.carried(tokens, lengths == 1)
        return self.actions.choose(hidden, sampling), state

    def tokens(self, encoded: Batch) -> Tensor:
        """[B, L, D]: the steps' tokens interleaved and told when they are; without the last one,
        an action that no other is to follow."""
        return self.all_tokens(encoded)[:, :-1]

    def all_tokens(self, encoded: Batch) -> Tensor:
        """[B, L + 1, D], as `tokens` has them, and the last action's."""
        streams = [encoded.observations, self._squash(self.actions.embed(encoded.actions))]
        if self.embed_condition is not None:
            streams.insert(0, self._squash(self.embed_condition(encoded.conditions)))
        return self.positions(torch.stack(streams, 2), encoded.timesteps)

    def _squash(self, tokens: Tensor) -> Tensor:
        return torch.tanh(tokens) if self.config.squash else tokens
