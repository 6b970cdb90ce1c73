"""Rollouts: many episodes of a policy, stepped together.

On a CPU the return of an episode is bit-identical for any number of environments and processes. The
last bits of a matrix product depend on the shapes of the matrices. A policy on a CPU therefore
always receives policy batches of `SLOTS` rows and `context_length` steps, on one thread, and
episode i runs in environment slot i % SLOTS. When an episode ends, the next one of its slot begins
in the following step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decision_seq.envs import Environments
from decision_seq.evaluate.acting import make_actor
from decision_seq.evaluate.context import Context, StepBuffer
from decision_seq.policies.base import Policy
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Bar, Sampling, Spec, Transition

SLOTS = 8  # rows of a policy batch; more are hardly faster per row on a CPU, and more stay empty


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


def draws_of(seed: int) -> np.random.Generator:
    """Generator for the draws of an episode's actions, independent of its environment's draws."""
    return np.random.default_rng([seed, 0xD12A])


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread: the number of threads changes the last bits of a product, and
    products this small gain little from more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device_of(policy: Policy) -> torch.device:
    return next(policy.parameters()).device


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

    precision: dtype of the policy's matrix products (autocast); for a `SlidingActor` it applies to
    the backbone only. temperature: temperature of the drawn actions, with draws from each episode's
    own seed; 0 takes the likeliest. stepped: called after each step with the number of environments
    stepped. observer: returns a number for every step, for `EpisodeResult.trace`.
    """
    policy.eval()
    conditioning = policy.conditioning(conditioning)
    batches = _PolicyBatches(policy, context_length, len(environments), precision, temperature)
    slots = _EnvironmentSlots(policy.spec, conditioning, environments, claim, batches, observer)
    slots.fill()
    while slots.taken.any():
        actions = batches.act(slots.buffer, slots.taken)
        if stepped is not None:
            stepped(int(slots.taken.sum()))
        yield from slots.step(actions)
        slots.fill()


class _PolicyBatches:
    """Policy batches of fixed shape: the contexts, the actor and its states."""

    def __init__(
        self,
        policy: Policy,
        context_length: int,
        environments: int,
        precision: torch.dtype,
        temperature: float,
    ) -> None:
        self.temperature, self.device = temperature, device_of(policy)
        self.slots = SLOTS if self.device.type == "cpu" else environments
        self.count = -(-environments // self.slots)
        size = encoded_size(policy)
        self.encoded = torch.zeros(self.count * self.slots, size, device=self.device)
        self.spec = policy.spec
        with torch.autocast(self.device.type, enabled=False):  # the caller may be in autocast
            self.actor = make_actor(policy, self.count, self.slots, context_length, precision)
        self.context = Context(len(self.encoded), self.actor.shown, self.spec, size, self.device)
        self.actions = torch.zeros_like(self.context.batch().actions[:, 0])

    @torch.inference_mode()
    def act(self, buffer: StepBuffer, taken: np.ndarray) -> np.ndarray:
        """Read the step buffer, then act in every policy batch in use -> actions [N, A] or [N]."""
        numbers, observations = buffer.on(self.device)
        batches = [
            (batch, slice(batch * self.slots, (batch + 1) * self.slots))
            for batch in range(self.count)
            if taken[batch * self.slots : (batch + 1) * self.slots].any()
        ]
        for _, rows in batches:
            seen = self.spec.one_step(observations[rows])
            self.encoded[rows] = self.actor.encode(seen)[:, 0].to(self.encoded.dtype)
        self.context.advance(self.actions, numbers, self.encoded)
        for batch, rows in batches:
            sampling = self._sampling(numbers[rows])
            self.actions[rows] = self.actor.decide(batch, self.context.batch(rows), sampling)
        return self.actions.cpu().numpy()

    def _sampling(self, numbers: Tensor) -> Sampling | None:
        return Sampling(numbers[:, StepBuffer.DRAW], self.temperature) if self.temperature else None


@torch.inference_mode()
def encoded_size(policy: Policy) -> int:
    """F, the number of features into which the policy encodes an observation."""
    shape, device = policy.spec.observation_shape, device_of(policy)
    return policy.encode(policy.spec.one_step(torch.zeros(1, *shape, device=device))).shape[2]


class _EnvironmentSlots:
    """Environment slots: the running episodes, their environments and their returns so far."""

    def __init__(
        self,
        spec: Spec,
        conditioning: Conditioning,
        environments: Environments,
        claim: Claim,
        batches: _PolicyBatches,
        observer: Observer | None,
    ) -> None:
        count = batches.count * batches.slots
        self.observer = observer
        self.traces: list[list[float]] = [[] for _ in range(count)]
        self.conditioning, self.environments, self.claim = conditioning, environments, claim
        self.slots_a_batch, self.drawn = batches.slots, batches.temperature > 0
        self.taken = np.zeros(count, bool)
        self.environment = np.zeros(count, np.int64)  # of a slot in use
        self.free = deque(range(len(environments)))
        self.exhausted = np.zeros(batches.slots, bool)
        self.requests: list[EpisodeRequest | None] = [None] * count
        self.drawing: list[np.random.Generator] = [np.random.default_rng(0)] * count
        self.targets = np.zeros(count)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, np.int64)
        self.buffer = StepBuffer(count, spec, batches.device)

    def fill(self) -> None:
        """Begin the next episodes where slots and environments are free."""
        self.buffer.fresh[:] = 0
        for row in np.flatnonzero(~self.taken):
            slot = row % self.slots_a_batch
            if not self.free or self.exhausted[slot]:
                continue
            request = self.claim(int(slot))
            if request is None:
                self.exhausted[slot] = True
                continue
            self.requests[row], self.taken[row] = request, True
            self.drawing[row] = draws_of(request.seed)
            self.environment[row] = self.free.popleft()
            self.targets[row] = np.nan if request.target is None else request.target
            self.returns[row], self.lengths[row] = 0.0, 0
            self.traces[row] = []
            first = self.environments.reset([request.seed], self.environment[row : row + 1])
            self.buffer.observations[row] = first[0]
            self._draw([int(row)])
            self.buffer.conditions[row] = self.conditioning.prompt(self.targets[row : row + 1])[0]
            self.buffer.fresh[row] = 1

    def _draw(self, rows: Sequence[int] | np.ndarray) -> None:
        """Draw each episode's number for its next action, where actions are drawn."""
        if self.drawn:
            for row in rows:
                self.buffer.draws[row] = self.drawing[row].random(dtype=np.float32)

    def step(self, actions: np.ndarray) -> Iterator[EpisodeResult]:
        """Step every environment in use; yield the finished episodes and free their slots."""
        rows = np.flatnonzero(self.taken)
        before = self.buffer.observations[rows]
        following, rewards, _, _ = self.environments.step(self.environment[rows], actions[rows])
        transition = Transition(before, actions[rows], rewards, following)
        self.buffer.conditions[rows] = self.conditioning.advance(
            self.buffer.conditions[rows], self.targets[rows], transition, self.lengths[rows]
        )
        if self.observer is not None:
            for row, value in zip(rows, self.observer(transition), strict=True):
                self.traces[row].append(float(value))
        self.buffer.observations[rows] = following
        self.buffer.rewards[rows] = rewards
        self._draw(rows)
        self.returns[rows] += rewards
        self.lengths[rows] += 1
        for row in rows[~self.environments.running[self.environment[rows]]]:
            request = self.requests[row]
            assert request is not None
            self.taken[row] = False
            self.free.append(int(self.environment[row]))
            trace = None if self.observer is None else np.array(self.traces[row])
            yield EpisodeResult(
                request.index, float(self.returns[row]), int(self.lengths[row]), trace
            )
