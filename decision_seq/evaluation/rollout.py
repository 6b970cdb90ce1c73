"""Rollouts: many episodes of a policy, stepped together.

On a CPU the return of an episode is bit-identical for any number of environments and processes: see
`episode_rows`, and episode i runs in environment slot i % SLOTS. When an episode ends, the next one
of its slot begins in the following step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from decision_seq.envs import Environments
from decision_seq.evaluation.episode_rows import SLOTS, EpisodeRows, device_of, one_thread
from decision_seq.policies.base import Policy
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Bar, Transition


@dataclass(frozen=True)
class EpisodeRequest:
    """Request for one episode."""

    index: int
    """Number of the episode."""
    target: float | None
    """Target of the raw return; None for a policy without a target."""
    seed: int
    """Seed of the environment and of the drawn actions."""


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode."""

    index: int
    """Number of the episode."""
    total: float
    """Undiscounted raw return."""
    length: int
    """Number of steps."""
    trace: np.ndarray | None = None
    """The observer's number for each step, [length]; None without an observer."""


# Environment slot -> its next episode request; None when there are no more.
Claim = Callable[[int], EpisodeRequest | None]
# One step of N environments -> a number for each, [N].
Observer = Callable[[Transition], np.ndarray]


def queue_up(policy: Policy, episodes: Sequence[EpisodeRequest]) -> Claim:
    """Claim that gives each episode once, in order: on a CPU to its own slot, on a GPU to any."""
    if device_of(policy).type != "cpu":
        waiting = deque(episodes)
        return lambda slot: waiting.popleft() if waiting else None
    queues = [deque(e for e in episodes if e.index % SLOTS == slot) for slot in range(SLOTS)]
    return lambda slot: queues[slot].popleft() if queues[slot] else None


def rollout_returns(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    environments: Environments,
    targets: Sequence[float | None] | np.ndarray,
    seeds: Sequence[int],
    bar: Bar | None = None,
    precision: torch.dtype = torch.float32,
    temperature: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Roll out one episode per target and seed, in this process -> returns [N], lengths [N].

    targets: raw returns; bar: updated after every episode; the rest: see `rollout_episodes`.
    """
    requests = [
        EpisodeRequest(i, t, s) for i, (t, s) in enumerate(zip(targets, seeds, strict=True))
    ]
    returns, lengths = np.zeros(len(requests)), np.zeros(len(requests), np.int64)
    claim = queue_up(policy, requests)
    with one_thread():
        shared = (policy, conditioning, context_length)
        for result in rollout_episodes(*shared, environments, claim, precision, temperature):
            returns[result.index], lengths[result.index] = result.total, result.length
            if bar is not None:
                bar.update()
    return returns, lengths


def rollout_episodes(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    environments: Environments,
    claim: Claim,
    precision: torch.dtype = torch.float32,
    temperature: float = 0.0,
    stepped: Callable[[int], None] | None = None,
    observer: Observer | None = None,
) -> Iterator[EpisodeResult]:
    """Roll out the episodes that `claim` gives, `len(environments)` at a time, each to its end.

    precision, temperature: see `EpisodeRows`. stepped: called with the number of environments
    before each step. observer: returns a number for every step, for `EpisodeResult.trace`.
    """
    shared = (policy, conditioning, context_length, len(environments))
    slots = _EnvironmentSlots(
        EpisodeRows(*shared, precision, temperature), environments, claim, observer
    )
    slots.fill()
    while slots.taken.any():
        if stepped is not None:
            stepped(int(slots.taken.sum()))
        yield from slots.step()
        slots.fill()


class _EnvironmentSlots:
    """Environment slots: the running episodes, their environments and their returns so far."""

    def __init__(
        self,
        episodes: EpisodeRows,
        environments: Environments,
        claim: Claim,
        observer: Observer | None,
    ) -> None:
        count = len(episodes)
        self.episodes, self.observer = episodes, observer
        self.environments, self.claim = environments, claim
        self.traces: list[list[float]] = [[] for _ in range(count)]
        self.taken = np.zeros(count, bool)
        self.environment = np.zeros(count, np.int64)  # of a slot in use
        self.free = deque(range(len(environments)))
        self.exhausted = np.zeros(episodes.batch_rows, bool)
        self.requests: list[EpisodeRequest | None] = [None] * count
        self.returns = np.zeros(count)

    def fill(self) -> None:
        """Begin the next episodes where slots and environments are free."""
        for row in np.flatnonzero(~self.taken):
            slot = row % self.episodes.batch_rows
            if not self.free or self.exhausted[slot]:
                continue
            request = self.claim(int(slot))
            if request is None:
                self.exhausted[slot] = True
                continue
            self.requests[row], self.taken[row] = request, True
            self.environment[row] = self.free.popleft()
            self.returns[row] = 0.0
            self.traces[row] = []
            first = self.environments.reset([request.seed], self.environment[row : row + 1])
            self.episodes.begin(int(row), first[0], request.target, request.seed)

    def step(self) -> Iterator[EpisodeResult]:
        """Act and step every environment in use; yield the finished episodes and free their
        slots."""
        rows = np.flatnonzero(self.taken)
        actions = self.episodes.act(self.taken)[rows]
        following, rewards, _, _ = self.environments.step(self.environment[rows], actions)
        transition = self.episodes.advance(rows, actions, rewards, following)
        if self.observer is not None:
            for row, value in zip(rows, self.observer(transition), strict=True):
                self.traces[row].append(float(value))
        self.returns[rows] += rewards
        for row in rows[~self.environments.running[self.environment[rows]]]:
            request = self.requests[row]
            assert request is not None
            self.taken[row] = False
            self.free.append(int(self.environment[row]))
            trace = None if self.observer is None else np.array(self.traces[row])
            yield EpisodeResult(
                request.index, float(self.returns[row]), int(self.episodes.lengths[row]), trace
            )
