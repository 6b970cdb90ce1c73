"""Bi-directional Decision Transformer (Furuta et al., 2022): conditioned on a learnt summary of
future states instead of the return.

Source: frt03/generalized_dt train_bdt.py, models/decision_transformer.py. There the summaries are
left in reverse order, so that the first step is conditioned on the last state only, and only the
states of the window are summarised. Here z_t = encoder(s_t, ..., s_{t+K-1}) at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.models.backbones import BackboneConfig, GPTConfig
from decision_seq.models.backbones.base import State
from decision_seq.models.encoders import EncoderConfig
from decision_seq.policies.base import Learnt, PolicyConfig
from decision_seq.policies.dt import DecisionTransformer, DecisionTransformerConfig
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.sequences.conditioning.schedule import Schedule
from decision_seq.types import Batch, Episode, Spec


@PolicyConfig.register_subclass("bdt")
@dataclass(frozen=True)
class BidirectionalTransformerConfig(DecisionTransformerConfig):
    """A Bi-directional Decision Transformer."""

    takes: ClassVar[tuple[str, ...] | None] = ()
    observations: ClassVar[tuple[str, ...]] = ("vector",)

    summary: BackboneConfig = field(default_factory=GPTConfig)
    """Backbone that summarises the future states."""
    summary_size: int = 16
    """Size of z, the summary of the future states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.summary_size
        require(
            1 <= size <= 4096,
            f"config: policy.summary_size {size} must be at least 1, and 4,096 at most",
        )

    @property
    def futures(self) -> int:
        return self.context_length - 1

    def make(self, spec: Spec) -> BidirectionalTransformer:
        return BidirectionalTransformer(self, spec)


class FutureSummary(nn.Module):
    """Summary z_t of the states s_t, ..., s_{t+K-1}, or of fewer at the end of an episode.

    A causal backbone reads them from the last to s_t, each with an embedding of its distance from
    t; z_t is computed from its last hidden state.
    """

    def __init__(
        self, backbone: BackboneConfig, encoder: EncoderConfig, size: int, length: int, spec: Spec
    ) -> None:
        super().__init__()
        self.backbone = backbone.build()
        width = self.backbone.width
        self.encoder = encoder.build(spec.observation_shape, width)
        self.distances = nn.Parameter(0.02 * torch.randn(length, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size)

    def forward(self, states: Tensor, real: Tensor, steps: int) -> Tensor:
        """states [B, L, S], real [B, L] -> [B, steps, Z].

        States that are not real are never read, at any position, nor are states after position L.
        """
        length = len(self.distances)
        missing = max(steps + length - 1 - states.shape[1], 0)
        states, real = F.pad(states, (0, 0, 0, missing)), F.pad(real, (0, missing))
        order = (~real).long().argsort(stable=True)  # real ones first, in order
        embedded = self.encoder(states)
        embedded = embedded.gather(1, order[:, :, None].expand_as(embedded))
        ahead = torch.arange(steps, device=real.device)
        left = (real.sum(1, keepdim=True) - ahead).clamp(1, length).flatten()  # [B * steps]
        windows = embedded.unfold(1, length, 1)[:, :steps].flatten(0, 1).mT  # [B * steps, K, D]
        tokens = self.norm(windows + self.distances)
        places = torch.arange(length, device=real.device)
        backwards = (left[:, None] - 1 - places).clamp_min(0)  # past `left` any value will do
        tokens = tokens.gather(1, backwards[:, :, None].expand_as(tokens))
        hidden, _ = self.backbone(tokens, left[:, None] - 1)  # [B * steps, 1, D]
        return self.head(hidden[:, 0]).unflatten(0, (-1, steps))


class BidirectionalTransformer(DecisionTransformer):
    """Decision Transformer that computes its own condition: tokens z_1, s_1, a_1, z_2, ...

    The summary and the transformer are trained by the loss of the actions only. A rollout is
    conditioned on the summaries of a target trajectory, by default of the data's best episode,
    which is stored in a buffer.
    """

    config: BidirectionalTransformerConfig
    target: Tensor
    target_length: Tensor

    def __init__(self, config: BidirectionalTransformerConfig, spec: Spec) -> None:
        shape = spec.observation_shape
        size, length = config.summary_size, config.context_length
        super().__init__(config, replace(spec, condition_size=size))
        self.futures = config.futures
        self.summary = FutureSummary(config.summary, config.encoder, size, length, spec)
        self.register_buffer("target", torch.zeros(spec.max_timestep, *shape))
        self.register_buffer("target_length", torch.ones((), dtype=torch.int64))

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        super().fit(store, conditions)
        self.summary.encoder.fit(store)
        best = int(store.returns.argmax())
        states = store.columns["observations"].rows(*map(int, store.offsets[best : best + 2]))
        self.target[: len(states)] = torch.as_tensor(np.array(states))
        self.target_length.fill_(len(states))

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        return super().learn(self.hindsight(batch), rng, state)

    def hindsight(self, batch: Batch) -> Batch:
        if batch.conditions.shape[2]:
            return batch
        states, real = batch.observations, batch.mask
        if batch.futures is not None:
            states = torch.cat([states, batch.futures], 1)
            real = torch.cat([real, batch.futures_mask], 1)
        return replace(batch, conditions=self.summary(states, real, batch.mask.shape[1]))

    def relabel(self, conditioning: Conditioning, episode: Episode) -> np.ndarray:
        states = torch.as_tensor(np.array(episode.observations[: len(episode)]))
        return self._summaries(states.to(self.target))

    def conditioning(self, given: Conditioning) -> Conditioning:
        if given.size:  # from a target trajectory
            return given
        return Schedule([self._summaries(self.target[: int(self.target_length)])])

    @torch.inference_mode()
    def _summaries(self, states: Tensor) -> np.ndarray:
        """states [T, S] of a whole trajectory -> [T, Z] float32."""
        real = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
        found: Any = self.eval().summary(states[None], real, len(states))[0]
        return found.float().cpu().numpy()
