"""The Trajectory Transformer as the planner's sequence model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from decision_seq.models.backbones import Backbone, Searchable
from decision_seq.models.critics import Critic
from decision_seq.models.fast.kv_cache import Cache
from decision_seq.policies.trajectory_transformer.planner import (
    PlannerConfig,
    Reader,
    TransitionLayout,
)
from decision_seq.sequences.tokenizer import Tokenizer
from decision_seq.types import Spec


class _HasPlanner(Protocol):
    @property
    def planner(self) -> PlannerConfig: ...


class TransitionModel(Protocol):
    """The parts of a Trajectory Transformer that planning reads; see `TrajectoryTransformer`."""

    positions: nn.Parameter
    tokenizer: Tokenizer

    @property
    def backbone(self) -> Backbone: ...

    @property
    def searched(self) -> Searchable: ...

    @property
    def config(self) -> _HasPlanner: ...

    @property
    def spec(self) -> Spec: ...

    @property
    def layout(self) -> TransitionLayout: ...

    @property
    def critic(self) -> Critic | None: ...

    @property
    def goal(self) -> int: ...

    @property
    def heads(self) -> Tensor: ...

    def embedded(self, tokens: Tensor, columns: Tensor, goal: Tensor | None = None) -> Tensor: ...


class Imagination:
    """A `SequenceModel` of the policy, with a key-value cache. goal: [B, S] tokens, or None."""

    def __init__(self, policy: TransitionModel, goal: Tensor | None) -> None:
        self.policy, self.goal = policy, goal

    def begin(self, tokens: Tensor, lengths: Tensor | None, shared: bool) -> Reader:
        policy, width = self.policy, self.policy.layout.size
        columns = torch.arange(tokens.shape[1], device=tokens.device) % width
        inputs = policy.embedded(tokens, columns, self.goals(len(tokens)))
        inputs = inputs + policy.positions[: inputs.shape[1]]
        cache = policy.searched.begin(len(tokens), shared)
        ends = torch.full_like(tokens[:, 0], tokens.shape[1]) if lengths is None else lengths
        ends = ends + policy.goal
        hidden = policy.searched.extend(inputs, cache, None if lengths is None else ends)
        rows = torch.arange(len(tokens), device=tokens.device)
        newest = hidden[rows, ends - 1]
        return CachedReader(policy, cache, newest, ends, tokens.shape[1] % width)

    def goals(self, rows: int) -> Tensor | None:
        """The goal's tokens, repeated for all rows of each environment, [R, S]."""
        return None if self.goal is None else self.goal.repeat_interleave(rows // len(self.goal), 0)

    def appraise(self, transitions: Tensor, reward: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        column, critic = self.policy.layout.size - 2, self.policy.critic
        rewards = self._expected(reward, column)
        if critic is None:
            values = self._expected(value, column + 1)
            return rewards, rewards + self.policy.spec.discount * values
        layout = self.policy.layout
        steps = transitions[:, : layout.actions.stop]
        decoded = self.policy.tokenizer.decode(steps.clamp(max=layout.stop - 1))
        onward = critic.onward(decoded[:, : layout.observation], decoded[:, layout.observation :])
        return rewards, onward.masked_fill((steps == layout.stop).any(1), 0)

    def _expected(self, logits: Tensor, column: int) -> Tensor:
        """Expected number of a column, from logits [R, N + 1] -> [R]; the stop token counts 0."""
        likely = logits.float().softmax(-1)[:, :-1]
        percentile, tokenizer = self.policy.config.planner.percentile, self.policy.tokenizer
        if percentile is None:
            return tokenizer.expect(likely[:, None], column)[:, 0]
        below = (likely.cumsum(-1) <= percentile).sum(-1, keepdim=True)
        stops = below == likely.shape[1]
        return tokenizer.decode(below - stops.long(), column).masked_fill(stops, 0)[:, 0]


class CachedReader:
    """State of the policy after the tokens it has read, with a key-value cache.

    newest: [R, D], the hidden states that predict the next tokens; positions: [R], those of the
    next tokens; column: their dimension within a transition.
    """

    def __init__(
        self,
        policy: TransitionModel,
        cache: Cache,
        newest: Tensor,
        positions: Tensor,
        column: int,
    ) -> None:
        self.policy, self.cache, self.newest = policy, cache, newest
        self.positions, self.column = positions, column

    def logits(self) -> Tensor:
        return self.newest @ self.policy.heads[self.column].T

    def read(self, tokens: Tensor) -> None:
        column = torch.full((1,), self.column, device=tokens.device)
        inputs = self.policy.embedded(tokens[:, None], column)
        inputs = inputs + self.policy.positions[self.positions][:, None]
        self.newest = self.policy.searched.extend(inputs, self.cache)[:, 0]
        self.positions = self.positions + 1
        self.column = (self.column + 1) % self.policy.layout.size

    def fork(self, copies: int) -> None:
        self.cache.fork(copies)
        self.newest = self.newest.repeat_interleave(copies, 0)
        self.positions = self.positions.repeat_interleave(copies, 0)

    def keep(self, rows: Tensor) -> None:
        self.cache.keep(rows)
        self.newest, self.positions = self.newest[rows], self.positions[rows]
