"""Evaluation protocol: its episodes, their distribution over processes, and their scores."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from decision_seq.checkpoint import DataFacts
from decision_seq.config import require
from decision_seq.envs import Environments, trust
from decision_seq.envs.registrations import register_again, registration
from decision_seq.evaluation.episode_rows import SLOTS, device_of, one_thread
from decision_seq.evaluation.rollout import (
    Claim,
    EpisodeRequest,
    EpisodeResult,
    Observer,
    queue_up,
    rollout_episodes,
)
from decision_seq.evaluation.scores import score
from decision_seq.evaluation.targets import Target, check_targets, resolve
from decision_seq.machine.memory import keep_freed, large_enough
from decision_seq.machine.workers import Counters, Helpers, cores
from decision_seq.policies.base import Policy
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Bar, Reporter, Spec, TargetScore, UserError

MOST = 1_000_000  # episodes per target; every result is saved


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of the evaluation by rollouts."""

    env_id: str | None = None
    """Environment to evaluate in; null for that of the dataset's task."""
    targets: tuple[Target, ...] | None = None
    """Target raw returns, declared before training; the first is the headline. Words name
    percentiles of the data's returns: `max`, `median`, `q0` to `q100`. Null takes those of the
    dataset's task (`envs.FACTS`). Ignored for a policy without a target."""
    episodes: int = 50
    """Episodes per target; 0 for no evaluation."""
    seed: int = 10_000
    """Seed of the first episode; episode i starts from seed + i at every target."""
    every: int | None = None
    """Updates between evaluations during training; 0 evaluates at its end only. Null decides when
    the run begins: ten evaluations where they are predicted to take less than a tenth of the
    training's time (see `training/pace.py`), else one at the end."""
    episodes_during: int | None = None
    """Episodes of an evaluation during training, at the first target alone; null for the whole
    protocol, or, where `every` is null, for 8 where that would take too long."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the policy's matrix products, see `rollout.rollout_episodes`."""
    temperature: float = 0.0
    """Temperature at which discrete actions, the actions of a stochastic head and the tokens of
    plans are drawn; 1 draws from the learnt distribution. 0 takes the likeliest, and a plan then
    has a single future."""
    environments: int | None = None
    """Environments stepped together in a process; null for 8 on a CPU and 256 on a GPU. On a CPU no
    score depends on it."""
    workers: int | None = None
    """Processes that step the environments; null for one per core. Always one on a GPU, and one per
    rank in a launch of several. On a CPU no score depends on it."""

    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; null for the environment's own limit. Where the
    environment has none, null is the data's longest episode."""

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
            negative = value is not None and value < 0
            require(not negative, f"config: evaluation.{key} {value} must not be negative")
        require(self.seed < 2**62, f"config: evaluation.seed {self.seed} must be below 2**62")
        warm = self.temperature
        require(
            0 <= warm < math.inf,
            f"config: evaluation.temperature {warm} must be 0 or above, and finite",
        )
        for key in ("environments", "workers", "max_episode_steps", "episodes_during"):
            value = getattr(self, key)
            require(
                value is None or value >= 1, f"config: evaluation.{key} {value} must be at least 1"
            )


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ON_A_GPU = 256  # environments stepped together
TOO_LARGE = (
    "these rollouts: lower evaluation.environments (evaluate: --environments), or the beams, expand"
    " or horizon of the planner"
)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: its episodes, and how their returns become scores.

    Episodes are numbered target by target. The result of an episode depends on its number only (see
    `rollout`), so scores do not depend on the distribution over ranks and processes. Fields without
    a line of their own: see `EvaluationConfig`.
    """

    conditioning: Conditioning
    """Labels that the policy is conditioned on."""
    context_length: int
    """Steps in the policy's context."""
    env_id: str
    targets: tuple[float, ...]
    """Target raw returns; empty for a policy without a target."""
    episodes: int
    seed: int
    reference_scores: tuple[float, float] | None = None
    """(random, expert) raw returns, which normalise the scores; None without normalised scores."""
    precision: str = "fp32"
    temperature: float = 0.0
    environments: int | None = None
    workers: int | None = None
    delayed: bool = False
    """Whether the policy receives rewards as one sum at an episode's last step, as in its data."""
    observer: Observer | None = None
    """Returns a number for every step, for the traces of the results."""
    max_episode_steps: int | None = None

    @classmethod
    def of(
        cls,
        config: EvaluationConfig,
        conditioning: Conditioning,
        context_length: int,
        facts: DataFacts,
    ) -> Evaluation:
        """The evaluation of a resolved configuration."""
        targets = resolve(config.targets or (), facts.return_percentiles)
        check_targets(targets, "the data's returns:")
        return cls(
            conditioning,
            context_length,
            str(config.env_id),
            targets if conditioning.asks else (),
            config.episodes,
            config.seed,
            facts.reference_scores,
            config.precision,
            config.temperature,
            config.environments,
            config.workers,
            facts.delayed,
            max_episode_steps=config.max_episode_steps,
        )

    @property
    def groups(self) -> tuple[float | None, ...]:
        """The target of each group of episodes; (None,) for a policy without a target."""
        return self.targets or (None,)

    def during(self, episodes: int | None) -> Evaluation:
        """The evaluation during training: its first episodes at the first target, None for all."""
        if episodes is None:
            return self
        return dataclasses.replace(self, targets=self.targets[:1], episodes=episodes)

    def protocol(self) -> dict[str, Any]:
        """The settings that determine the episodes and how they are rolled out."""
        keys = ("env_id", "targets", "episodes", "seed", "precision", "temperature")
        settings = {key: getattr(self, key) for key in keys}
        if self.max_episode_steps is not None:
            settings["max_episode_steps"] = self.max_episode_steps
        return settings

    def requests(self) -> list[EpisodeRequest]:
        """A request for every episode, target by target."""
        return [
            EpisodeRequest(group * self.episodes + i, target, self.seed + i)
            for group, target in enumerate(self.groups)
            for i in range(self.episodes)
        ]

    def rank_part(
        self, policy: Policy, rank: int = 0, world: int = 1, reporter: Reporter | None = None
    ) -> dict[str, Any]:
        """Roll out this rank's episodes -> a part for `scores`: returns, lengths and seconds.

        UserError when the environment does not fit the policy.
        """
        started = time.perf_counter()
        results = self.results(policy, rank, world, reporter)
        return {
            "returns": {str(episode.index): episode.total for episode in results},
            "lengths": {str(episode.index): episode.length for episode in results},
            "seconds": time.perf_counter() - started,
        }

    def results(
        self, policy: Policy, rank: int = 0, world: int = 1, reporter: Reporter | None = None
    ) -> list[EpisodeResult]:
        """Results of this rank's episodes, in the order they ended.

        UserError when the environment does not fit the policy.
        """
        mine = [request for request in self.requests() if request.index // SLOTS % world == rank]
        results: list[EpisodeResult] = []
        with (
            large_enough(TOO_LARGE),
            (reporter or Reporter()).bar("evaluate", "episode", len(mine)) as bar,
        ):
            pace = _Pace(bar)
            for episode in self._results_of_processes(policy, mine, world == 1, pace):
                results.append(episode)
                bar.update()
        return results

    def layout(self, policy: Policy, episodes: int, alone: bool) -> tuple[int, int]:
        """Number of environments per process, and of processes. alone: the launch has one rank."""
        if device_of(policy).type != "cpu":
            return min(episodes, self.environments or ON_A_GPU), 1
        processes = min(self.workers or cores(), -(-episodes // SLOTS))
        alone = alone and not self._only_here(policy)
        return min(episodes, self.environments or SLOTS), processes if alone else 1

    def _only_here(self, policy: Policy) -> bool:
        """Whether other processes cannot have the policy, its conditioning or its environment,
        because a script or a notebook defines it."""
        parts = (*policy.modules(), self.conditioning)
        return (
            any(type(part).__module__ == "__main__" for part in parts)
            or registration(self.env_id) is None
        )

    def _results_of_processes(
        self, policy: Policy, requests: list[EpisodeRequest], alone: bool, pace: _Pace
    ) -> Iterator[EpisodeResult]:
        """Results as the episodes end, in this process and in the helping processes."""
        if not requests:
            return
        count, processes = self.layout(policy, len(requests), alone)
        made = (self.env_id, count, self.delayed, self.max_episode_steps)
        environments = Environments(*made)
        check_sizes(environments, policy.spec)
        environments.step_limit = step_limit(environments, policy.spec)
        made = (*made[:3], environments.step_limit)
        how = (self.precision, self.temperature, self.observer)
        shared = (policy, self.conditioning, self.context_length, *how)
        with one_thread(), contextlib.closing(environments):
            if processes == 1:
                claim = queue_up(policy, requests)
                yield from _results_here(claim, environments, *shared, pace)
                return
            counters = Counters(SLOTS)
            claim = share_out(requests, counters)
            given = (counters, requests, made, registration(self.env_id), *shared)
            with Helpers(processes - 1, _help, *given) as helpers:
                for episode in _results_here(claim, environments, *shared, pace):
                    yield episode
                    yield from helpers.produced(wait=False)
                yield from helpers.produced(wait=True)

    def scores(self, parts: Sequence[dict[str, Any]]) -> tuple[list[TargetScore], float]:
        """The parts of all ranks -> scores in the order of the targets, environment steps/s."""
        returns, lengths = (
            np.array([merged[str(request.index)] for request in self.requests()])
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
    """Progress between the ends of episodes, which may be many minutes apart: steps and rate."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.steps = bar, 0
        self.started = self.reported = time.perf_counter()

    def __call__(self, rows: int) -> None:
        """Count `rows` more environment steps, and show the rate once a second."""
        self.steps += rows
        now = time.perf_counter()
        if now - self.reported >= 1:
            rate = self.steps / (now - self.started)
            self.bar.set_postfix_str(f"here {self.steps:,} steps, {rate:,.0f} a second")
            self.reported = now


def share_out(requests: Sequence[EpisodeRequest], counters: Counters) -> Claim:
    """As `rollout.queue_up` on a CPU, but each episode goes to the first process that claims it."""
    queues = [[e for e in requests if e.index % SLOTS == slot] for slot in range(SLOTS)]

    def claim(slot: int) -> EpisodeRequest | None:
        at = counters.take(slot)
        return queues[slot][at] if at < len(queues[slot]) else None

    return claim


def _results_here(
    claim: Claim,
    environments: Environments,
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    precision: str,
    temperature: float,
    observer: Observer | None,
    pace: _Pace | None = None,
) -> Iterator[EpisodeResult]:
    if device_of(policy).type == "cpu":
        keep_freed()  # as in training: a step reuses the memory of the previous one
    shared = (policy, conditioning, context_length, environments, claim)
    return rollout_episodes(*shared, DTYPES[precision], temperature, pace, observer)


def _help(
    counters: Counters,
    requests: list[EpisodeRequest],
    made: tuple[str, int, bool, int | None],
    registered: bytes,
    policy: Policy,
    *rest: Any,
) -> Iterator[EpisodeResult]:
    """Roll out episodes in a helping process until none is left.

    made: arguments of `Environments`. registered: see `envs.registrations`.
    """
    register_again(registered)
    trust(made[0])  # made in the main process too: named by the user, or Gymnasium's
    environments = Environments(*made)
    claim = share_out(requests, counters)
    yield from _results_here(claim, environments, policy, *rest)


def step_limit(environments: Environments, spec: Spec) -> int | None:
    """Steps after which we truncate episodes; None where the environment does so itself.

    An environment without a limit of its own might never end an episode. The policy then knows
    timesteps up to the data's longest episode, which is the limit.
    """
    return environments.step_limit or (
        None if environments.max_episode_steps else spec.max_timestep
    )


def check_environment(
    env_id: str, spec: Spec, limit: int | None = None, reporter: Reporter | None = None
) -> int | None:
    """The limit of steps that we set on episodes; None where the environment has one of its own.

    limit: `EvaluationConfig.max_episode_steps`. A limit that no one set is reported. UserError
    unless the environment exists here and fits the policy; called before training.
    """
    environments = Environments(env_id, 1, step_limit=limit)
    check_sizes(environments, spec)
    if environments.max_episode_steps is None:
        (reporter or Reporter()).say(
            f"{env_id} has no time limit: its episodes are truncated after {spec.max_timestep:,}"
            " steps, the data's longest episode; set another by --evaluation.max_episode_steps"
        )
        limit = spec.max_timestep
    environments.close()
    return limit


def check_sizes(environments: Environments, spec: Spec) -> None:
    """UserError unless the environment's observations and actions match the policy's."""

    def named(shape: tuple[int, ...], size: int, discrete: bool) -> str:
        return f"observations {list(shape)} and {size} {'choices' if discrete else 'actions'}"

    shape, size = environments.sizes
    found = (shape, size, environments.discrete)
    discrete = spec.action_kind == "discrete"
    expected = (spec.observation_shape, spec.action_size, discrete)
    if discrete and environments.discrete and spec.action_size < size:
        expected = (spec.observation_shape, size, discrete)  # the data lack the last choices
    if found != expected or environments.actions.first_choice != spec.first_choice:
        raise UserError(
            f"{environments.env_id} has {named(*found)}, the policy {named(*expected)}; name"
            " another environment"
        )
