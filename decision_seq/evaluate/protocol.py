"""Which episodes are rolled out, by whom, and how they become scores."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from decision_seq.checkpoint import DataFacts
from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning
from decision_seq.envs import Environments, trust
from decision_seq.evaluate.scores import score
from decision_seq.memory import keep_freed, large_enough
from decision_seq.policies.base import Policy
from decision_seq.rollout import (
    SEATS,
    Asked,
    Claim,
    Observer,
    Obtained,
    device_of,
    one_thread,
    queue_up,
    roll,
)
from decision_seq.targets import Target, check_targets, resolve
from decision_seq.types import Bar, Reporter, Spec, TargetScore, UserError
from decision_seq.workers import Counters, Helpers, cores

MOST = 1_000_000  # episodes a target; every one is kept


@dataclass(frozen=True)
class EvaluationConfig:
    """env_id and targets: null takes those of the dataset's task (`envs.FACTS`).

    targets: raw returns asked for, declared before training; the first is the headline. Words name
        percentiles of the data's own returns: `max`, `median`, `q0` to `q100`. Ignored for a policy
        that is asked for nothing.
    episodes: a target, 0 for no evaluation; episode i starts from seed + i whatever the target.
    every: updates between evaluations during training, 0 for the one at its end alone.
    precision: of the policy's matrix products (see `rollout.roll`). temperature: discrete actions,
        those of a stochastic head and the tokens of plans are drawn at it (1: as they were learnt),
        0 takes the likeliest: a plan then has one future and no choice.
    environments, workers: how many are stepped together in a process (null: 8 on a CPU, 256 on a
        GPU), and how many processes step them (null: one a core; always one on a GPU, and one a
        rank in a launch of several). On a CPU no score depends on either.
    """

    env_id: str | None = None
    targets: tuple[Target, ...] | None = None
    episodes: int = 50
    seed: int = 10_000
    every: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    temperature: float = 0.0
    environments: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        require(
            self.episodes >= 0, f"config: evaluation.episodes {self.episodes} must not be negative"
        )
        require(
            self.episodes <= MOST, f"config: evaluation.episodes {self.episodes} is above {MOST:,}"
        )
        require(self.targets != (), "config: evaluation.targets is empty; name at least one return")
        check_targets(self.targets or (), "config: evaluation.targets:")
        for key in ("seed", "every"):
            value = getattr(self, key)
            require(value >= 0, f"config: evaluation.{key} {value} must not be negative")
        warm = self.temperature
        require(
            0 <= warm < math.inf,
            f"config: evaluation.temperature {warm} must be 0 or above, and finite",
        )
        for key in ("environments", "workers"):
            value = getattr(self, key)
            require(
                value is None or value >= 1, f"config: evaluation.{key} {value} must be at least 1"
            )


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ON_A_GPU = 256  # environments stepped together
TOO_LARGE = (
    "these rollouts: lower evaluation.environments (evaluate: --environments), or the beams, expand"
    " or horizon of what plans"
)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's protocol: which episodes, and how they become scores.

    Episodes are numbered target by target; each is a function of its number alone (`rollout`), so
    that a score does not depend on how ranks and processes share them out.

    targets: empty for a policy that is asked for nothing; reference_scores: (random, expert) raw
    returns, which normalise the others; delayed: the policy is told rewards as one sum with an
    episode's last step, as its data had them; observer: notes a number of every step, for the
    traces of `obtained`. The rest: see `EvaluationConfig`.
    """

    conditioning: Conditioning
    context_length: int
    env_id: str
    targets: tuple[float, ...]
    episodes: int
    seed: int
    reference_scores: tuple[float, float] | None = None
    precision: str = "fp32"
    temperature: float = 0.0
    environments: int | None = None
    workers: int | None = None
    delayed: bool = False
    observer: Observer | None = None

    @classmethod
    def of(
        cls,
        config: EvaluationConfig,
        conditioning: Conditioning,
        context_length: int,
        facts: DataFacts,
    ) -> Evaluation:
        """What a resolved configuration asks for."""
        asked = resolve(config.targets or (), facts.return_percentiles)
        check_targets(asked, "the data's returns:")
        return cls(
            conditioning,
            context_length,
            str(config.env_id),
            asked if conditioning.asks else (),
            config.episodes,
            config.seed,
            facts.reference_scores,
            config.precision,
            config.temperature,
            config.environments,
            config.workers,
            facts.delayed,
        )

    @property
    def groups(self) -> tuple[float | None, ...]:
        """What is asked for, a group of episodes each; (None,) where nothing is."""
        return self.targets or (None,)

    def protocol(self) -> dict[str, Any]:
        """What decides which episodes are rolled out, and how."""
        keys = ("env_id", "targets", "episodes", "seed", "precision", "temperature")
        return {key: getattr(self, key) for key in keys}

    def asked(self) -> list[Asked]:
        """Every episode, target by target."""
        return [
            Asked(group * self.episodes + i, target, self.seed + i)
            for group, target in enumerate(self.groups)
            for i in range(self.episodes)
        ]

    def roll(
        self, policy: Policy, rank: int = 0, world: int = 1, reporter: Reporter | None = None
    ) -> dict[str, Any]:
        """This rank's episodes -> what `scores` takes; UserError when the environment misfits."""
        started = time.perf_counter()
        obtained = self.obtained(policy, rank, world, reporter)
        return {
            "returns": {str(episode.index): episode.total for episode in obtained},
            "lengths": {str(episode.index): episode.length for episode in obtained},
            "seconds": time.perf_counter() - started,
        }

    def obtained(
        self, policy: Policy, rank: int = 0, world: int = 1, reporter: Reporter | None = None
    ) -> list[Obtained]:
        """This rank's episodes, as they ended; UserError when the environment misfits."""
        mine = [asked for asked in self.asked() if asked.index // SEATS % world == rank]
        obtained: list[Obtained] = []
        with (
            large_enough(TOO_LARGE),
            (reporter or Reporter()).bar("evaluate", "episode", len(mine)) as bar,
        ):
            pace = _Pace(bar)
            for episode in self._obtained(policy, mine, world == 1, pace):
                obtained.append(episode)
                bar.update()
        return obtained

    def layout(self, policy: Policy, episodes: int, alone: bool) -> tuple[int, int]:
        """Environments stepped together in a process, and processes; alone: a launch of one."""
        if device_of(policy).type != "cpu":
            return min(episodes, self.environments or ON_A_GPU), 1
        processes = min(self.workers or cores(), -(-episodes // SEATS))
        return min(episodes, self.environments or SEATS), processes if alone else 1

    def _obtained(
        self, policy: Policy, asked: list[Asked], alone: bool, pace: _Pace
    ) -> Iterator[Obtained]:
        """The episodes as they end, here and in the processes that help."""
        if not asked:
            return
        count, processes = self.layout(policy, len(asked), alone)
        made = (self.env_id, count, self.delayed)
        environments = Environments(*made)
        check_sizes(environments, policy.spec)
        how = (self.precision, self.temperature, self.observer)
        shared = (policy, self.conditioning, self.context_length, *how)
        with one_thread(), contextlib.closing(environments):
            if processes == 1:
                claim = queue_up(policy, asked)
                yield from _roll(claim, environments, *shared, pace)
                return
            counters = Counters(SEATS)
            claim = share_out(asked, counters)
            given = (counters, asked, made, *shared)
            with Helpers(processes - 1, _help, *given) as helpers:
                for episode in _roll(claim, environments, *shared, pace):
                    yield episode
                    yield from helpers.produced(wait=False)
                yield from helpers.produced(wait=True)

    def scores(self, parts: Sequence[dict[str, Any]]) -> tuple[list[TargetScore], float]:
        """What every rank rolled out -> scores in the order of the targets, env steps/s."""
        returns, lengths = (
            np.array([merged[str(asked.index)] for asked in self.asked()])
            for merged in (
                {key: value for part in parts for key, value in part[what].items()}
                for what in ("returns", "lengths")
            )
        )
        rate = lengths.sum() / max(part["seconds"] for part in parts)
        count = len(self.groups)
        per_target = zip(
            self.groups, np.split(returns, count), np.split(lengths, count), strict=True
        )
        scored = [score(t, r, n, self.seed, self.reference_scores) for t, r, n in per_target]
        return scored, float(rate)


class _Pace:
    """Tells what is done between two episodes' ends, which may be many minutes apart."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.steps = bar, 0
        self.started = self.told = time.perf_counter()

    def __call__(self, rows: int) -> None:
        """So many environments have been acted in."""
        self.steps += rows
        now = time.perf_counter()
        if now - self.told >= 1:
            rate = self.steps / (now - self.started)
            self.bar.set_postfix_str(f"here {self.steps:,} steps, {rate:,.0f} a second")
            self.told = now


def share_out(asked: Sequence[Asked], counters: Counters) -> Claim:
    """As `rollout.queue_up` on a CPU, but each episode goes to whichever process asks first."""
    queues = [[e for e in asked if e.index % SEATS == seat] for seat in range(SEATS)]

    def claim(seat: int) -> Asked | None:
        at = counters.take(seat)
        return queues[seat][at] if at < len(queues[seat]) else None

    return claim


def _roll(
    claim: Claim,
    environments: Environments,
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    precision: str,
    temperature: float,
    observer: Observer | None,
    pace: _Pace | None = None,
) -> Iterator[Obtained]:
    if device_of(policy).type == "cpu":
        keep_freed()  # as training does: a step is made of the blocks of the one before
    shared = (policy, conditioning, context_length, environments, claim)
    return roll(*shared, DTYPES[precision], temperature, pace, observer)


def _help(
    counters: Counters,
    asked: list[Asked],
    made: tuple[str, int, bool],
    policy: Policy,
    *rest: Any,
) -> Iterator[Obtained]:
    """What a helping process does: the same, until no episode is left. made: `Environments`."""
    trust(made[0])  # who asks has made it, so it was named by the user or belongs to Gymnasium
    environments = Environments(*made)
    claim = share_out(asked, counters)
    yield from _roll(claim, environments, policy, *rest)


def check_environment(env_id: str, spec: Spec) -> None:
    """UserError unless the environment exists here and fits the policy: found before training."""
    environments = Environments(env_id, 1)
    check_sizes(environments, spec)
    environments.close()


def check_sizes(environments: Environments, spec: Spec) -> None:
    """UserError unless the environment's observations and actions are the policy's."""

    def named(shape: tuple[int, ...], size: int, discrete: bool) -> str:
        return f"observations {list(shape)} and {size} {'choices' if discrete else 'actions'}"

    found = (*environments.sizes, environments.discrete)
    expected = (spec.observation_shape, spec.action_size, spec.action_kind == "discrete")
    if found != expected:
        raise UserError(
            f"{environments.env_id} has {named(*found)}, the policy {named(*expected)}; name"
            " another environment"
        )
