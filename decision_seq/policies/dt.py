"""Decision Transformer (Chen et al., 2021): actions predicted from (return-to-go, state, action).

Facts of the layout: kzl/decision-transformer gym/decision_transformer/models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.store import EpisodeStore
from decision_seq.models.actions import make_actions
from decision_seq.models.backbones import BackboneConfig, GPTConfig
from decision_seq.models.encoders import VectorEncoder
from decision_seq.models.layers import Read
from decision_seq.policies.base import Losses, Policy, PolicyConfig
from decision_seq.types import Batch, Spec


@PolicyConfig.register_subclass("dt")
@dataclass(frozen=True)
class DecisionTransformerConfig(PolicyConfig):
    """timestep_std: spread of the timestep embedding's first values.

    1, PyTorch's default and the original's, drowns the other tokens at timesteps that the data
    seldom reach, and a policy that outlives its data falls there; 0.02 lets it go on.
    """

    backbone: BackboneConfig = field(default_factory=GPTConfig)
    timestep_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        std = self.timestep_std
        require(0 <= std < math.inf, f"config: policy.timestep_std {std} must not be negative")

    def build(self, spec: Spec) -> DecisionTransformer:
        return DecisionTransformer(self, spec)


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
        require(
            len(spec.observation_shape) == 1,
            f"policy dt needs vector observations, not ones of shape {spec.observation_shape}",
        )
        self.config, self.spec = config, spec
        self.backbone = config.backbone.build()
        width = self.backbone.width
        conditioned = spec.condition_size > 0
        self.tokens_per_step = 3 if conditioned else 2
        self.embed_condition = nn.Linear(spec.condition_size, width) if conditioned else None
        self.encoder = VectorEncoder(spec.observation_shape[0], width)
        self.actions = make_actions(spec, width)
        self.embed_timestep = nn.Embedding(spec.max_timestep, width)
        nn.init.normal_(self.embed_timestep.weight, std=config.timestep_std)
        self.embed_norm = nn.LayerNorm(width)
        # With one step in the window no past action is ever an input.
        self.actions.embed.requires_grad_(config.context_length > 1)

    def fit(self, store: EpisodeStore) -> None:
        self.encoder.fit(*store.observation_statistics)

    def forward(self, batch: Batch, rng: torch.Generator) -> Losses:
        states = slice(self.tokens_per_step - 2, None, self.tokens_per_step)
        hidden = self.backbone(self._tokens(batch), states)  # [B, T, D]
        return {"action": self.actions.loss(hidden, batch.actions)}

    def act(
        self, batch: Batch, state: Any = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, None]:
        newest: Read = (self.tokens_per_step * batch.lengths - 2)[:, None]  # [B, 1], its state's
        hidden = self.backbone(self._tokens(batch), newest)  # [B, 1, D]
        return self.actions.choose(hidden[:, 0]), None

    def _tokens(self, batch: Batch) -> Tensor:
        """[B, L, D]: the steps' tokens interleaved, then normalised."""
        streams = [self.encoder(batch.observations), self.actions.embed(batch.actions)]
        if self.embed_condition is not None:
            streams.insert(0, self.embed_condition(batch.conditions))
        tokens = torch.stack(streams, 2) + self.embed_timestep(batch.timesteps)[:, :, None]
        return self.embed_norm(tokens.flatten(1, 2)[:, :-1])
