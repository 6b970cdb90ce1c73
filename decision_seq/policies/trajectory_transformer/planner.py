"""Planning by beam search in a model of token sequences (Janner et al., 2021, section 3).

Plans for many environments are computed together. Each environment has `beams` imagined futures. At
every step of the plan each future is continued by `expand` drawn actions, the model predicts the
reward and the value after them, and the best `beams` are retained. The planner does not depend on a
policy: it passes tokens to a `SequenceModel`, which returns estimates of rewards and values.

Facts of the search: jannerm/trajectory-transformer trajectory/search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from decision_seq.config import require
from decision_seq.models.fast.counter_rng import keys_of, uniforms
from decision_seq.types import Sampling

MOST = 100_000  # steps ahead, futures, and continuations of each


@dataclass(frozen=True)
class TransitionLayout:
    """The tokens of a transition: observation (S), action (A), reward, value."""

    observation: int
    """S, the tokens of an observation."""
    action: int
    """A, the tokens of an action."""
    stop: int
    """The stop token, which fills every place after the end of an episode."""

    @property
    def size(self) -> int:
        """Tokens of a transition, S + A + 2."""
        return self.observation + self.action + 2

    @property
    def actions(self) -> range:
        """The places of the action's tokens within a transition."""
        return range(self.observation, self.observation + self.action)


@dataclass(frozen=True)
class PlannerConfig:
    """Settings of the beam search. Defaults: jannerm/trajectory-transformer config/offline.py.

    Tokens are drawn at `evaluation.temperature`. At temperature 0 all futures would be equal, so
    only one is planned.
    """

    horizon: int = 15
    """Transitions in a plan."""
    beams: int = 128
    """Futures retained after each step of a plan."""
    expand: int = 2
    """Continuations of each future at each step."""
    context: int = 5
    """Past transitions that a plan reads, at most."""
    keep: int = 5
    """Newest transitions that are read again when the context and the plan fill the policy's
    window; the rest are dropped. (The original has a window of 5 transitions and drops one at a
    time.)"""
    every: int = 1
    """Steps between plans; between them the last plan is followed."""
    objective: Literal["return", "likelihood"] = "return"
    """`return` retains the futures of the highest expected discounted reward and value;
    `likelihood` the likeliest, token by token (imitation)."""
    cdf_observation: float | None = None
    """Least likely part of an observation token's distribution that is never drawn; null for
    none."""
    cdf_action: float | None = 0.6
    """Least likely part of an action token's distribution that is never drawn; null for none."""
    k_observation: int | None = 1
    """Draw an observation's tokens among the k likeliest; 1 takes the likeliest, null draws among
    all."""
    k_action: int | None = None
    """Draw an action's tokens among the k likeliest; 1 takes the likeliest, null draws among
    all."""
    k_reward: int | None = 1
    """Draw the reward's and the value's token among the k likeliest; 1 takes the likeliest, null
    draws among all."""
    percentile: float | None = None
    """Quantile of their distributions that estimates rewards and values; null for the mean."""

    def __post_init__(self) -> None:
        where = "config: policy.planner."
        counts = ("horizon", "beams", "expand", "keep", "every")
        for key in (*counts, "k_observation", "k_action", "k_reward"):
            value = getattr(self, key)
            fine = (value is None and key not in counts) or (value is not None and value >= 1)
            require(fine, f"{where}{key} {value} must be at least 1")
        for key in ("horizon", "beams", "expand"):  # else a run would fail only at its evaluation
            value = getattr(self, key)
            require(value <= MOST, f"{where}{key} {value} must be at most {MOST:,}")
        require(self.context >= 0, f"{where}context {self.context} must not be negative")
        for key in ("cdf_observation", "cdf_action", "percentile"):
            value = getattr(self, key)
            fine = value is None or 0 < value < 1
            require(fine, f"{where}{key} {value} must be above 0 and below 1")
        require(
            self.every <= self.horizon,
            f"{where}every {self.every} exceeds the horizon of {self.horizon}",
        )


class Reader(Protocol):
    """State of a sequence model after the tokens it has read, in R rows."""

    def logits(self) -> Tensor:
        """Logits of the next token, [R, N + 1]."""

    def read(self, tokens: Tensor) -> None:
        """Append the next token of each row, [R]."""

    def fork(self, copies: int) -> None:
        """Repeat every row `copies` times, copies adjacent."""

    def keep(self, rows: Tensor) -> None:
        """Retain these rows: the same number for each environment, adjacent."""


class SequenceModel(Protocol):
    """Sequence model that the planner needs from a policy."""

    def begin(self, tokens: Tensor, lengths: Tensor | None, shared: bool) -> Reader:
        """Read the first lengths [R] (default all) of tokens [R, L], from the start of a window.

        shared: the rows are environments, and all futures of an environment share its row.
        """

    def appraise(self, transitions: Tensor, reward: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Expected reward of a step, and expected discounted return from this step on, [R] each.

        transitions: [R, D - 1], the tokens of the step without its value; reward, value: the logits
        [R, N + 1] of its reward and value.
        """


class Drawing:
    """Draws tokens, with random numbers for each environment that depend on no other environment.

    They are functions of the environment's own number and a counter: see `fast.counter_rng`.
    """

    def __init__(self, sampling: Sampling | None) -> None:
        """sampling: None takes the likeliest tokens."""
        self.sampling, self.used = sampling, 0

    def tokens(self, logits: Tensor, cdf: float | None, k: int | None) -> Tensor:
        """Tokens [R] from logits [R, N + 1]; cdf, k: see `PlannerConfig` and `filtered`."""
        if self.sampling is None or k == 1:
            return logits.argmax(-1)
        likely = filtered((logits.float() / self.sampling.temperature).softmax(-1), cdf, k)
        # In double precision: a rounded sum that falls could draw a token of probability 0.
        reached = likely.double().cumsum(-1)
        numbers = self._numbers(len(logits))[:, None] * reached[:, -1:]
        return (reached <= numbers).sum(-1).clamp(max=logits.shape[1] - 1)

    def _numbers(self, rows: int) -> Tensor:
        """Random numbers [R] float32 in [0, 1), equally many for each environment."""
        assert self.sampling is not None
        keys = keys_of(self.sampling.draws)
        count = rows // len(keys)
        places = torch.arange(self.used, self.used + count, device=keys.device)
        self.used += count
        return uniforms(keys, places).flatten()


def filtered(probabilities: Tensor, cdf: float | None, k: int | None) -> Tensor:
    """The probabilities with 0 for tokens that must not be drawn; not renormalised.

    cdf: the smallest probabilities whose sum is below it are set to 0, at least the smallest one,
    and so are those equal to the largest of them; the largest probability always remains. k: the k
    largest remain, and those equal to the smallest of them.
    """
    stays = torch.ones_like(probabilities, dtype=torch.bool)
    if cdf is not None:
        upwards = probabilities.sort(-1).values
        last = ((upwards.cumsum(-1) < cdf).sum(-1, keepdim=True) - 1).clamp(min=0)
        stays &= probabilities > upwards.gather(-1, last)
        stays |= probabilities == upwards[:, -1:]
    if k is not None and k < probabilities.shape[-1]:
        stays &= probabilities >= probabilities.topk(k, -1).values[:, -1:]
    return probabilities * stays


class Futures:
    """Imagined futures, and the model's state for each; see `PlannerConfig.keep` for its window.

    tokens: [R, horizon * W] from each environment's newest observation on, the first `length` set.
    """

    def __init__(
        self,
        model: SequenceModel,
        prefix: Tensor,
        lengths: Tensor,
        layout: TransitionLayout,
        config: PlannerConfig,
        window: int,
    ) -> None:
        self.model, self.layout, self.config, self.window = model, layout, config, window
        self.reader = model.begin(prefix, lengths, shared=True)
        self.environments = len(prefix)
        self.held = config.context  # transitions in the window, as if every context were full
        size = config.horizon * layout.size
        self.tokens = prefix.new_zeros(len(prefix), size)
        places = (lengths - layout.observation)[:, None]
        places = places + torch.arange(layout.observation, device=prefix.device)
        self.tokens[:, : layout.observation] = prefix.gather(1, places)
        self.length = layout.observation

    def fork(self, copies: int) -> None:
        self.tokens = self.tokens.repeat_interleave(copies, 0)
        self.reader.fork(copies)

    def keep(self, rows: Tensor) -> None:
        self.tokens = self.tokens[rows]
        self.reader.keep(rows)

    def logits(self) -> Tensor:
        """Logits [R, N + 1]; the stop token is excluded for actions that will be executed."""
        logits = self.reader.logits()
        transition, place = divmod(self.length, self.layout.size)
        if transition < self.config.every and place in self.layout.actions:
            logits = logits.clone()
            logits[:, self.layout.stop] = -torch.inf
        return logits

    def read(self, tokens: Tensor) -> None:
        """Append tokens [R] to the futures; read the newest part again when the window is full."""
        self.tokens[:, self.length] = tokens
        self.length += 1
        self.held += self.length % self.layout.size == 0
        if self.held < self.window:
            self.reader.read(tokens)
            return
        newest = self.tokens[:, self.length - self.config.keep * self.layout.size : self.length]
        self.reader = self.model.begin(newest, None, shared=False)
        self.held = self.config.keep

    def transition(self) -> Tensor:
        """The tokens of the current, incomplete transition, [R, ...]."""
        return self.tokens[:, self.length - self.length % self.layout.size : self.length]

    def best(self, scores: Tensor) -> Tensor:
        """Rows [B * beams] of the highest scores [R] of each environment, the highest first."""
        count = len(scores) // self.environments
        chosen = scores.view(-1, count).topk(min(self.config.beams, count), -1).indices
        firsts = torch.arange(self.environments, device=scores.device)[:, None] * count
        return (firsts + chosen).flatten()


def plan(
    model: SequenceModel,
    prefix: Tensor,
    lengths: Tensor,
    layout: TransitionLayout,
    config: PlannerConfig,
    window: int,
    discount: float,
    sampling: Sampling | None,
) -> Tensor:
    """The actions of the best future of each environment, [B, horizon, A] tokens.

    prefix: [B, L] tokens of up to `context` transitions and the newest observation, valid in the
    first lengths [B] of each row; window: transitions that the model can read at once; sampling:
    the random numbers and the temperature, None takes the likeliest tokens.
    """
    beams = Futures(model, prefix, lengths, layout, config, window)
    if config.objective == "likelihood":
        _imitate(beams, config)
    else:
        if sampling is None:  # without draws all futures are equal
            config = replace(config, beams=1, expand=1)
        _maximise(beams, config, discount, Drawing(sampling))
    futures = beams.tokens.view(len(prefix), -1, config.horizon, layout.size)
    return futures[:, 0, :, layout.observation : layout.observation + layout.action]


def _maximise(beams: Futures, config: PlannerConfig, discount: float, drawing: Drawing) -> None:
    """Retain the futures of the highest expected discounted reward and value."""
    gained = torch.zeros(beams.environments, device=beams.tokens.device)  # [R]
    for depth in range(config.horizon):
        copies = config.expand * (1 if depth else config.beams)
        beams.fork(copies)
        for _ in beams.layout.actions:
            beams.read(drawing.tokens(beams.logits(), config.cdf_action, config.k_action))
        reward = beams.logits()
        beams.read(drawing.tokens(reward, None, config.k_reward))
        value = beams.logits()
        value_token = drawing.tokens(value, None, config.k_reward)
        rewards, onward = beams.model.appraise(beams.transition(), reward, value)
        gained = gained.repeat_interleave(copies)
        rows = beams.best(gained + discount**depth * onward)
        gained = (gained + discount**depth * rewards)[rows]
        beams.keep(rows)
        if depth + 1 < config.horizon:
            beams.read(value_token[rows])
            for _ in range(beams.layout.observation):
                cdf, k = config.cdf_observation, config.k_observation
                beams.read(drawing.tokens(beams.logits(), cdf, k))


def _imitate(beams: Futures, config: PlannerConfig) -> None:
    """Retain the likeliest futures, token by token."""
    beams.fork(config.beams)
    scores = torch.full((beams.environments, config.beams), -torch.inf, device=beams.tokens.device)
    scores[:, 0] = 0.0  # the copies are equal: start with one
    scores = scores.flatten()
    for _ in range(config.horizon * beams.layout.size - beams.layout.observation - 1):
        reached = scores[:, None] + beams.logits().log_softmax(-1)  # [R, N + 1]
        chosen = beams.best(reached.flatten())
        scores = reached.flatten()[chosen]
        beams.keep(chosen // reached.shape[1])
        beams.read(chosen % reached.shape[1])
