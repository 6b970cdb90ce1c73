"""Collection of episodes with behaviour policies: equal seeds give equal bytes, on any load.

Episode i of part p takes its start and its noise from the seed (seed, p, i). The policy always
receives matrices of WAVE rows, and an episode is always in the same row, because the last bits of a
matrix product depend on the number of rows. An episode is therefore a function of (seed, p, i)
only: the number of workers and the order of their work do not change the data.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from decision_seq.datasets.collected.behaviour import Actor
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.envs import ActionSpace, Environments, facts_by_name, trust
from decision_seq.machine.pool import Job, Pool, process_pool
from decision_seq.machine.workers import cores
from decision_seq.types import Episode, Reporter, UserError

WAVE = 32  # rows of the policy's matrices
CHUNK = 8  # episodes that a worker steps together; divides WAVE

MOST_STEPS = 10_000  # of an episode, where its environment has no limit and might never end it

# Incremented when the same seed no longer gives the same data; part of a bundled store's name.
COLLECTOR = 2


@dataclass(frozen=True)
class Size:
    """Size of a collection: a least number of steps in whole episodes, or a number of episodes."""

    count: int
    """Number of steps or episodes."""
    unit: Literal["step", "episode"] = "step"
    """Whether `count` is in steps or in episodes."""

    def of(self, episode: Episode) -> int:
        """The size of one episode in this unit."""
        return len(episode) if self.unit == "step" else 1

    def share(self, part: int, parts: int) -> Size:
        """The share of one part; shares differ by at most one and sum to the size."""
        start, end = (self.count * bound // parts for bound in (part, part + 1))
        return Size(end - start, self.unit)


def collect(
    actors: Sequence[Actor],
    env_id: str,
    size: Size,
    seed: int,
    output: Path,
    name: str,
    source: dict[str, Any],
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> EpisodeStore:
    """Roll out the actors one after another, in equal shares, into a store.

    workers: number of processes, by default one per core. UserError if an actor does not fit the
    environment.
    """
    workers = cores() if workers is None else workers
    if size.count < len(actors):
        raise UserError(f"{size.count} {size.unit}s requested; at least {len(actors)} are needed")
    if seed < 0 or workers < 1:
        raise UserError(f"seed {seed} must not be negative, and workers {workers} at least 1")
    trust(env_id)
    limit, space = _check_fits(actors, env_id)
    reporter = reporter or Reporter()
    if limit is None:
        reporter.say(
            f"{env_id} has no time limit: its episodes are truncated after {MOST_STEPS:,} steps"
        )
    found = facts_by_name(env_id)
    total = 0
    with (
        StoreWriter(output) as writer,
        process_pool(workers) as pool,
        reporter.bar(f"collect {name}", size.unit, size.count) as bar,
    ):
        for part, actor in enumerate(actors):
            share = size.share(part, len(actors))
            left = share.count
            jobs = Jobs(pool, run_chunk, (actor, env_id, (seed, part)))
            for episode in jobs.episodes(share, limit, 2 * workers):
                writer.append(episode)
                total += len(episode)
                bar.update(min(share.of(episode), left))
                left -= min(share.of(episode), left)
        return writer.finish(
            name,
            {**source, size.unit + "s": size.count, "seed": seed},
            env_id=env_id,
            family=found[0] if found else None,
            max_episode_steps=limit or max(writer.lengths),
            transitions_in=total,
            has_timeouts=True,
            **space.header_entries,
        )


def _check_fits(actors: Sequence[Actor], env_id: str) -> tuple[int | None, ActionSpace]:
    """The environment's step limit and its action space.

    UserError unless the environment exists, has vector observations and fits the actors.
    """
    envs = Environments(env_id, 1)
    (shape, action_size), limit = envs.sizes, envs.max_episode_steps
    envs.close()
    if len(shape) != 1:
        raise UserError(
            f"{env_id} shows observations of shape {shape}; only vectors are collected, so name"
            " another environment"
        )
    for actor in actors:
        if actor.sizes is None:
            continue
        if envs.discrete:
            raise UserError(
                f"{env_id} takes a choice as an action; {actor.description} gives vectors; name"
                " another environment, or the policy `uniform`"
            )
        if actor.sizes != (shape[0], action_size):
            raise UserError(
                f"{actor.description} has {actor.sizes} observation and action dimensions;"
                f" {env_id} has {shape[0]} and {action_size}"
            )
    return limit, envs.actions


@dataclass(frozen=True)
class Jobs:
    """Episodes that the workers compute in advance."""

    pool: Pool
    """The workers."""
    run: Callable[..., list[Episode]]
    """Function called as `run(*arguments, first, count)` for episodes of one chunk."""
    arguments: tuple
    """First arguments of `run`."""
    chunk: int = CHUNK
    """Episodes of a chunk."""

    def episodes(self, size: Size, limit: int | None, ahead: int) -> Iterator[Episode]:
        """Episodes 0, 1, 2, ... until the size is reached.

        No more are started than are expected to be needed. Before the first one has ended, an
        episode is expected to be `limit` steps long. At most `ahead` chunks are pending.
        """
        pending: deque[Job] = deque()
        begun = done = ended = 0
        while done < size.count:
            mean = done / ended if ended else (limit or 1 if size.unit == "step" else 1)
            needed = ended + math.ceil((size.count - done) / mean)
            while (begun < needed and len(pending) < ahead) or not pending:
                count = min(max(1, needed - begun), self.chunk - begun % self.chunk)
                pending.append(self.pool.submit(self.run, *self.arguments, begun, count))
                begun += count
            for episode in pending.popleft().result():
                if done < size.count:
                    done, ended = done + size.of(episode), ended + 1
                    yield episode


@lru_cache(1)
def _environments(env_id: str) -> Environments:
    """The environments, reused by a worker: making them takes as long as a hundred steps."""
    trust(env_id)  # the id was given by the user, not by data
    environments = Environments(env_id, CHUNK)
    if environments.max_episode_steps is None:
        environments.step_limit = MOST_STEPS
    return environments


def run_chunk(
    actor: Actor, env_id: str, seed: tuple[int, ...], first: int, count: int
) -> list[Episode]:
    """Whole episodes first to first + count - 1; they must be of one chunk."""
    if first // CHUNK != (first + count - 1) // CHUNK:
        raise ValueError(f"episodes {first} to {first + count - 1} are not of one chunk")
    envs = _environments(env_id)
    shape, action_size = envs.sizes
    slots = np.arange(first, first + count) % WAVE
    generators = [np.random.default_rng([*seed, first + i]) for i in range(count)]
    observations = np.zeros((WAVE, *shape))
    observations[slots] = envs.reset([int(g.integers(2**31)) for g in generators])
    noise = np.zeros((WAVE, action_size))
    steps: list[list[tuple]] = [[] for _ in range(count)]
    ends = [(False, False)] * count
    while envs.running.any():
        rows = np.flatnonzero(envs.running)
        for row in rows:
            noise[slots[row]] = generators[row].standard_normal(action_size)
        actions = actor.act(observations, noise)[slots[rows]]
        actions = envs.actions.from_unit(actions)
        following, rewards, terminated, truncated = envs.step(rows, actions)
        for i, row in enumerate(rows):
            steps[row].append((observations[slots[row]].copy(), actions[i], rewards[i]))
            ends[row] = (bool(terminated[i]), bool(truncated[i] and not terminated[i]))
        observations[slots[rows]] = following
    finals = observations[slots]
    return [_episode(*whole) for whole in zip(steps, finals, ends, strict=True)]


def _episode(steps: list[tuple], final: np.ndarray, ends: tuple[bool, bool]) -> Episode:
    observations, actions, rewards = zip(*steps, strict=True)
    return Episode(
        np.stack([*observations, final]).astype(np.float32),
        np.stack(actions),
        np.array(rewards, np.float32),
        *ends,
    )
