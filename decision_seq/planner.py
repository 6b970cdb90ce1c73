"""Planning by beam search in a model of token sequences (Janner et al., 2021, section 3).

Many environments are planned for at once. Each has `beams` imagined futures; at every step of the
plan each of these is continued by `expand` drawn actions, the model says what reward and what value
follow, and the best `beams` go on. The planner knows no policy: it reads tokens into a
`SequenceModel` and is told what a step is worth.

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
class Layout:
    """The tokens of a transition: observation (S), action (A), reward, value.

    stop: the token that stands in every place behind the end of an episode.
    """

    observation: int
    action: int
    stop: int

    @property
    def size(self) -> int:
        return self.observation + self.action + 2

    @property
    def actions(self) -> range:
        """The places of the action's tokens within a transition."""
        return range(self.observation, self.observation + self.action)


@dataclass(frozen=True)
class PlannerConfig:
    """Defaults: jannerm/trajectory-transformer config/offline.py.

    horizon: transitions looked ahead; beams, expand: futures kept, and continuations of each;
    context: past transitions that are read, at most; every: steps between plans, in between the
    last one is followed; objective: `return` keeps the futures of the highest expected discounted
    reward and value, `likelihood` the likeliest, token by token (imitation).

    cdf_*: of a token's distribution, the least likely part that is never drawn; k_*: draw among the
    k likeliest, 1 takes the likeliest, null all. What is drawn is drawn at
    `evaluation.temperature`; where that is 0, all futures would be one, and one is planned.
    percentile: estimate rewards and values by this quantile of their distributions, null by the
    mean.

    keep: where the context and the plan fill the policy's window, so many of the newest transitions
    stay and the rest are forgotten. (The original's window is one of 5 transitions for which it
    forgets one at a time.)
    """

    horizon: int = 15
    beams: int = 128
    expand: int = 2
    context: int = 5
    keep: int = 5
    every: int = 1
    objective: Literal["return", "likelihood"] = "return"
    cdf_observation: float | None = None
    cdf_action: float | None = 0.6
    k_observation: int | None = 1
    k_action: int | None = None
    k_reward: int | None = 1
    percentile: float | None = None

    def __post_init__(self) -> None:
        where = "config: policy.planner."
        counts = ("horizon", "beams", "expand", "keep", "every")
        for key in (*counts, "k_observation", "k_action", "k_reward"):
            value = getattr(self, key)
            fine = (value is None and key not in counts) or (value is not None and value >= 1)
            require(fine, f"{where}{key} {value} must be at least 1")
        for key in ("horizon", "beams", "expand"):  # else a run fails at its evaluation
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
    """What a model has read, in R rows, and what it expects to follow."""

    def logits(self) -> Tensor:
        """[R, N + 1] of the token to come."""

    def read(self, tokens: Tensor) -> None:
        """The next token of each row, [R]."""

    def fork(self, copies: int) -> None:
        """Every row becomes so many, side by side."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows; of each environment as many as of any other, side by side."""


class SequenceModel(Protocol):
    """What the planner asks of a policy."""

    def begin(self, tokens: Tensor, lengths: Tensor | None, shared: bool) -> Reader:
        """Read the first lengths [R] (default all) of tokens [R, L], from the start of a window.

        shared: the rows are environments, on each of which all of its futures will stand.
        """

    def appraise(self, transitions: Tensor, reward: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What transitions [R, D - 1] (all but their values' tokens) are worth, given the logits
        [R, N + 1] of their rewards and values: the expected reward of the step, and the expected
        discounted return from it on, [R] each."""


class Drawing:
    """Draws tokens, for each environment by numbers that depend on no other.

    They are functions of the environment's own number and a counter: see `fast.counter_rng`.
    """

    def __init__(self, sampling: Sampling | None) -> None:
        """None: takes the likeliest."""
        self.sampling, self.used = sampling, 0

    def tokens(self, logits: Tensor, cdf: float | None, k: int | None) -> Tensor:
        """[R] of logits [R, N + 1]; see `PlannerConfig` and `filtered`."""
        if self.sampling is None or k == 1:
            return logits.argmax(-1)
        likely = filtered((logits.float() / self.sampling.temperature).softmax(-1), cdf, k)
        # In double precision, as a sum whose rounding falls would draw what cannot be.
        reached = likely.double().cumsum(-1)
        numbers = self._numbers(len(logits))[:, None] * reached[:, -1:]
        return (reached <= numbers).sum(-1).clamp(max=logits.shape[1] - 1)

    def _numbers(self, rows: int) -> Tensor:
        """[R] float32 in [0, 1), as many of each environment."""
        assert self.sampling is not None
        keys = keys_of(self.sampling.draws)
        count = rows // len(keys)
        places = torch.arange(self.used, self.used + count, device=keys.device)
        self.used += count
        return uniforms(keys, places).flatten()


def filtered(probabilities: Tensor, cdf: float | None, k: int | None) -> Tensor:
    """The same with 0 where a token is not to be drawn; not renormalised.

    cdf: sorted upwards, what comes before the sum reaches it goes, and with it all that is as
    likely as the last of it; the smallest always goes, the largest always stays. k: the k largest
    stay, and what is as large as the last of them.
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
    """Imagined futures, and what a model has read of each; it forgets as `keep` says.

    tokens: [R, horizon * W], `length` of them there, from each environment's newest observation on.
    """

    def __init__(
        self,
        model: SequenceModel,
        prefix: Tensor,
        lengths: Tensor,
        layout: Layout,
        config: PlannerConfig,
        window: int,
    ) -> None:
        self.model, self.layout, self.config, self.window = model, layout, config, window
        self.reader = model.begin(prefix, lengths, shared=True)
        self.environments = len(prefix)
        self.held = config.context  # transitions in the model's window, counted as if all were full
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
        """[R, N + 1]; an action that the environment will be given is not the stop token."""
        logits = self.reader.logits()
        transition, place = divmod(self.length, self.layout.size)
        if transition < self.config.every and place in self.layout.actions:
            logits = logits.clone()
            logits[:, self.layout.stop] = -torch.inf
        return logits

    def read(self, tokens: Tensor) -> None:
        """Tokens [R] into every future; where the window is full, its newest part is read anew."""
        self.tokens[:, self.length] = tokens
        self.length += 1
        self.held += self.length % self.layout.size == 0
        if self.held < self.window:
            self.reader.read(tokens)
            return
        kept = self.tokens[:, self.length - self.config.keep * self.layout.size : self.length]
        self.reader = self.model.begin(kept, None, shared=False)
        self.held = self.config.keep

    def transition(self) -> Tensor:
        """The tokens of the transition that is being imagined, [R, ...]."""
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
    layout: Layout,
    config: PlannerConfig,
    window: int,
    discount: float,
    sampling: Sampling | None,
) -> Tensor:
    """The actions of the best future of each environment, [B, horizon, A] tokens.

    prefix: [B, L] tokens of up to `context` transitions and the newest observation, each row's own
    at its first lengths [B]; window: transitions that the model can read at once; sampling: by what
    the tokens of each environment are drawn, None takes the likeliest everywhere.
    """
    beams = Futures(model, prefix, lengths, layout, config, window)
    if config.objective == "likelihood":
        _imitate(beams, config)
    else:
        if sampling is None:  # futures that nothing is drawn for are all the same
            config = replace(config, beams=1, expand=1)
        _maximise(beams, config, discount, Drawing(sampling))
    futures = beams.tokens.view(len(prefix), -1, config.horizon, layout.size)
    return futures[:, 0, :, layout.observation : layout.observation + layout.action]


def _maximise(beams: Futures, config: PlannerConfig, discount: float, drawing: Drawing) -> None:
    """Keep the futures of the highest expected discounted reward and value."""
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
    """Keep the likeliest futures, token by token."""
    beams.fork(config.beams)
    scores = torch.full((beams.environments, config.beams), -torch.inf, device=beams.tokens.device)
    scores[:, 0] = 0.0  # the copies are all alike: one is enough to begin with
    scores = scores.flatten()
    for _ in range(config.horizon * beams.layout.size - beams.layout.observation - 1):
        reached = scores[:, None] + beams.logits().log_softmax(-1)  # [R, N + 1]
        chosen = beams.best(reached.flatten())
        scores = reached.flatten()[chosen]
        beams.keep(chosen // reached.shape[1])
        beams.read(chosen % reached.shape[1])
