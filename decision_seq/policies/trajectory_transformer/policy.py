"""Trajectory Transformer (Janner et al., 2021): every number of a trajectory is a token.

Actions are planned by beam search over futures that the model predicts.
Facts: jannerm/trajectory-transformer trajectory/models/transformers.py, config/offline.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import Column, EpisodeStore
from decision_seq.models.backbones import BackboneConfig, GPTConfig
from decision_seq.models.backbones.base import Searchable, State
from decision_seq.models.critics import CriticConfig, NoCriticConfig
from decision_seq.policies.base import Learnt, Policy, PolicyConfig, begins_episode
from decision_seq.policies.trajectory_transformer.imagination import Imagination
from decision_seq.policies.trajectory_transformer.planner import (
    PlannerConfig,
    TransitionLayout,
    plan,
)
from decision_seq.sequences.tokenizer import Tokenizer
from decision_seq.types import Batch, Sampling, Spec

FIT_ROWS = 65_536  # transitions in a block for the tokenizer


@dataclass(frozen=True)
class LossWeights:
    """Weights of the tokens in the loss, by kind."""

    observation: float = 1.0
    """Weight of an observation's tokens."""
    action: float = 5.0
    """Weight of an action's tokens."""
    reward: float = 1.0
    """Weight of the reward's token."""
    value: float = 1.0
    """Weight of the value's token."""

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            fine = np.isfinite(value) and value >= 0
            require(fine, f"config: policy.weights.{key} {value} must not be negative")
        require(any(vars(self).values()), "config: policy.weights are all 0: nothing is learnt")


@PolicyConfig.register_subclass("tt")
@dataclass(frozen=True)
class TrajectoryTransformerConfig(PolicyConfig):
    """Settings of a Trajectory Transformer."""

    needs: ClassVar[tuple[str, ...]] = ("reward", "value")
    takes: ClassVar[tuple[str, ...] | None] = ("goal",)
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    observations: ClassVar[tuple[str, ...]] = ("vector",)
    example: ClassVar[dict[str, Any]] = {
        "bins": 8,
        "planner": PlannerConfig(horizon=1, beams=2, context=3, keep=2),
    }

    context_length: int = 10
    """Transitions in the window."""
    bins: int = 100
    """Bins of every dimension: the number of values that its tokens can take."""
    binning: Literal["quantile", "uniform"] = "quantile"
    """`quantile`: bins that hold the same number of values; `uniform`: bins of the same width."""
    backbone: BackboneConfig = field(
        default_factory=lambda: GPTConfig(layers=4, heads=4, activation="gelu")
    )
    """The sequence model; it must support beam search, which feeds it tokens piece by piece."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the tokens in the loss."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Settings of the beam search that chooses actions."""
    critic: CriticConfig = field(default_factory=NoCriticConfig)
    """Estimates the return from each step on, in place of the value tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.bins <= 10_000, f"config: policy.bins {self.bins} must be 2 to 10,000")
        window, planner = self.context_length, self.planner
        require(
            max(planner.context, 1) + planner.keep <= window,
            f"config: policy.planner.context {planner.context} (at least 1) and keep"
            f" {planner.keep} exceed policy.context_length, the window of {window} transitions",
        )
        if not isinstance(self.critic, NoCriticConfig):
            require(
                planner.objective == "return",
                "config: policy.critic works only with the policy.planner.objective `return`",
            )

    @property
    def forwards(self) -> float:
        plan = self.planner
        transitions = plan.beams * plan.expand * plan.horizon
        return transitions / (self.context_length * plan.every)

    def make(self, spec: Spec) -> TrajectoryTransformer:
        return TrajectoryTransformer(self, spec)


class TrajectoryTransformer(Policy):
    """Policy over the tokens o_1 .. o_S, a_1 .. a_A, reward, value of consecutive transitions.

    Each dimension has its own bins, embeddings and head. No token attends to the tokens of values,
    because they contain the future. Stop tokens follow the end of an episode and are learnt; after
    a time limit nothing is learnt. (The original has stop tokens after both; it also divides by the
    tokens of padding.) With a goal in the condition, the goal's tokens come first.
    """

    def __init__(self, config: TrajectoryTransformerConfig, spec: Spec) -> None:
        super().__init__()
        size = spec.observation_shape[0]
        self.config, self.spec = config, spec
        self.layout = TransitionLayout(size, spec.action_size, stop=config.bins)
        self.goal = spec.condition_size - 2  # tokens of a goal before a window
        self.critic = config.critic.build(spec)
        require(
            self.critic is None or not self.goal,
            "policy.critic knows no goals: give it --conditioning.name outcome",
        )
        width, window = self.layout.size, config.context_length
        self.tokenizer = Tokenizer(width, config.bins)
        seen = (True,) * self.goal + ((True,) * (width - 1) + (False,)) * window
        self.backbone = config.backbone.build(seen[:-1])
        require(
            isinstance(self.backbone, Searchable),
            "config: policy.backbone: beam search cannot read this backbone piece by piece; the"
            " policy tt needs one that it can, such as gpt",
        )
        self.loss_weights.update(vars(config.weights))
        dimension = self.backbone.width
        self.embed = nn.Embedding(width * config.bins + 1, dimension)
        self.embed_goal = nn.Embedding(self.goal * config.bins, dimension) if self.goal else None
        self.positions = nn.Parameter(torch.zeros(len(seen) - 1, dimension))
        self.head = nn.Linear(dimension, width * (config.bins + 1), bias=False)
        for table in (self.embed, self.embed_goal):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        self.tokenizer.fit(_transitions(store, conditions), self.config.binning)
        if self.critic is not None:
            self.critic.fit(store, conditions)

    def counted(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        counted = batch.mask | _stopped(batch, self.config.context_length)
        weights = dict.fromkeys(("observation", "action", "reward", "value"), counted)
        return weights if self.critic is None else weights | self.critic.weights(batch)

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """Each loss is the sum over its tokens of a step, divided by the step's token count."""
        tokens = self.tokens(batch)  # [B, T, W]
        steps = tokens.shape[1]
        tokens = tokens[:, : self.config.context_length]  # drop padding after the window
        logits = self._logits(tokens, self._goal(batch))  # [W, B, T, N + 1]
        # bf16 is too coarse for the loss; fp64 stays fp64.
        exact = torch.promote_types(logits.dtype, torch.float32)
        losses = F.cross_entropy(
            logits.flatten(0, 2).to(exact), tokens.permute(2, 0, 1).flatten(), reduction="none"
        ).view(len(logits), *tokens.shape[:2])
        losses = F.pad(losses, (0, steps - tokens.shape[1]))
        if not self.goal:  # nothing predicts the window's first token
            losses = torch.cat([_without_first(losses[:1]), losses[1:]])
        size = self.layout.observation
        last = size + self.layout.action
        parts = {
            "observation": losses[:size].sum(0),
            "action": losses[size:last].sum(0),
            "reward": losses[last],
            "value": losses[last + 1],
        }
        parts = {name: part / len(losses) for name, part in parts.items()}
        return Learnt(parts if self.critic is None else parts | self.critic.losses(batch))

    def after_step(self) -> None:
        super().after_step()
        if self.critic is not None:
            self.critic.after_step()

    def tokens(self, batch: Batch) -> Tensor:
        """Tokens [B, T, W] of a training batch, with stop tokens after the end of an episode."""
        known = [batch.observations, batch.actions, batch.conditions[..., :2]]
        tokens = self.tokenizer.encode(torch.cat(known, -1))
        stopped = _stopped(batch, self.config.context_length)
        return torch.where(stopped[..., None], self.layout.stop, tokens)

    def encode(self, observations: Tensor) -> Tensor:
        """The tokens of observations, as floats."""
        return self.tokenizer.encode(observations).float()

    def decide(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Planned]:
        """Follow each row's plan. When any row needs a new one, plans for all rows are computed."""
        config = self.config.planner
        lengths = batch.lengths
        age = torch.full_like(lengths, config.every) if state is None else state.age + 1
        due = (age >= config.every) | begins_episode(batch)
        if due.any():
            fresh = self.plan(batch, sampling)[:, : config.every]
            former = fresh if state is None else state.actions
            state = Planned(torch.where(due[:, None, None], fresh, former), age.masked_fill(due, 0))
        else:
            state = Planned(state.actions, age)
        rows = torch.arange(len(lengths), device=lengths.device)
        tokens = state.actions[rows, state.age]
        return self.tokenizer.decode(tokens, self.layout.observation), state

    @torch.no_grad()
    def plan(self, encoded: Batch, sampling: Sampling | None = None) -> Tensor:
        """Plan from the newest step of each row -> tokens of actions [B, horizon, A]."""
        prefix, lengths = self.prefix(encoded)
        config, goal = self.config, self._goal(encoded)
        return plan(
            Imagination(self, goal),
            prefix,
            lengths,
            self.layout,
            config.planner,
            config.context_length,
            self.spec.discount,
            sampling,
        )

    def embedded(self, tokens: Tensor, columns: Tensor, goal: Tensor | None = None) -> Tensor:
        """Embed tokens [R, L] of columns [L], after a goal's tokens [R, S] -> [R, (S +) L, D].

        Positions are not added.
        """
        bins = self.config.bins
        ids = torch.where(tokens == bins, self.layout.size * bins, tokens + columns * bins)
        embedded = self.embed(ids)
        if self.embed_goal is None or goal is None:
            return embedded
        places = torch.arange(self.goal, device=goal.device)
        return torch.cat([self.embed_goal(goal + places * bins), embedded], 1)

    @property
    def searched(self) -> Searchable:
        """The backbone, with the interface for beam search."""
        assert isinstance(self.backbone, Searchable)
        return self.backbone

    @property
    def heads(self) -> Tensor:
        """The head of each dimension, [W, N + 1, D]."""
        return self.head.weight.unflatten(0, (self.layout.size, -1))

    def _logits(self, tokens: Tensor, goal: Tensor | None) -> Tensor:
        """Logits [W, B, T, N + 1] of the tokens [B, T, W], each from the tokens before it."""
        batch, steps, width = tokens.shape
        columns = torch.arange(width, device=tokens.device).repeat(steps)
        inputs = self.embedded(tokens.flatten(1)[:, :-1], columns[:-1], goal)
        hidden, _ = self.backbone(inputs + self.positions[: inputs.shape[1]])
        # The output at a token predicts the next; with a goal, its last token predicts the first.
        hidden = hidden[:, self.goal - 1 :] if self.goal else F.pad(hidden, (0, 0, 1, 0))
        by_column = hidden.unflatten(1, (steps, width)).permute(2, 0, 1, 3).flatten(1, 2)
        return (by_column @ self.heads.mT).unflatten(1, (batch, steps))

    def _goal(self, batch: Batch) -> Tensor | None:
        """Tokens [B, S] of each window's goal; None without one."""
        return self.tokenizer.encode(batch.conditions[:, 0, 2:]) if self.goal else None

    def prefix(self, encoded: Batch) -> tuple[Tensor, Tensor]:
        """Prefix of a plan: tokens [B, L] of each row's last transitions and its newest
        observation, and the number of valid tokens in each row, [B]."""
        context, size = self.config.planner.context, self.layout.observation
        past = (encoded.lengths - 1).clamp(max=context)
        steps = torch.arange(context + 1, device=past.device)
        steps = (encoded.lengths - 1 - past)[:, None] + steps  # [B, context + 1]
        steps = steps.clamp(max=encoded.mask.shape[1] - 1)
        rows = torch.arange(len(past), device=past.device)[:, None]
        rewards = encoded.rewards[rows, steps][..., None]
        done = self.tokenizer.encode(torch.cat([encoded.actions[rows, steps], rewards], -1), size)
        tokens = torch.cat([encoded.observations[rows, steps].long(), done], -1)
        # The value is not known yet; no token attends to this one.
        tokens = F.pad(tokens, (0, 1), value=self.config.bins - 1)
        prefix = tokens.flatten(1)[:, : context * self.layout.size + size]
        return prefix, past * self.layout.size + size


class Planned(NamedTuple):
    """State of a rollout: the plan of each row, and the steps since it was made."""

    actions: Tensor  # [B, every, A] tokens
    age: Tensor  # [B]


def _stopped(batch: Batch, window: int) -> Tensor:
    """Mask [B, T] of a window's steps after its episode terminated (not after a time limit)."""
    if batch.terminated is None:
        return torch.zeros_like(batch.mask)
    inside = torch.arange(batch.mask.shape[1], device=batch.mask.device) < window
    return (batch.terminated & batch.mask).any(1, keepdim=True) & ~batch.mask & inside


def _without_first(losses: Tensor) -> Tensor:
    """Losses [1, B, T] of each step's first token, set to 0 at the window's first step."""
    return F.pad(losses[..., 1:], (1, 0))


def _transitions(store: EpisodeStore, conditions: Column) -> Iterator[np.ndarray]:
    """Observation, action, reward and value of all transitions, in blocks [n, W]."""
    columns = [store.columns["observations"], store.columns["actions"], conditions]
    for start in range(0, store.num_transitions, FIT_ROWS):
        stop = min(start + FIT_ROWS, store.num_transitions)
        observations, actions, outcome = (column.rows(start, stop) for column in columns)
        yield np.concatenate([observations, actions, outcome[:, :2]], 1)
