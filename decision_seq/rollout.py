"""Rolling a policy out: the steps of many episodes together.

The same episode gives the same return to the bit however many are rolled out at once, on however
many processes: the last bits of a matrix product depend on the shape of the matrices, so a policy
on a CPU always sees tables of `SEATS` rows and `context_length` steps, on one thread, and episode i
sits in seat i % SEATS. An episode that ends makes room for the next one of its seat at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decision_seq.context import Context, News
from decision_seq.data.conditioning import Conditioning
from decision_seq.envs import Environments
from decision_seq.models.fast.linear import lowered
from decision_seq.policies.base import Policy
from decision_seq.types import Bar, Sampling, Spec, Transition

SEATS = 8  # rows of a table; more are hardly faster a row on a CPU, and leave more seats empty


@dataclass(frozen=True)
class Asked:
    """An episode to roll out: its number, the raw return asked for (None: nothing), its seed."""

    index: int
    target: float | None
    seed: int


@dataclass(frozen=True)
class Obtained:
    """What became of it: the undiscounted raw return, the number of steps.

    trace: what an observer noted of every step, [length]; None without one.
    """

    index: int
    total: float
    length: int
    trace: np.ndarray | None = None


# The next episode of a seat, None when there are no more.
Claim = Callable[[int], Asked | None]
# Of one step of N environments, a number each, [N].
Observer = Callable[[Transition], np.ndarray]


def draws_of(seed: int) -> np.random.Generator:
    """What an episode's actions are drawn by: apart from what its environment draws of the seed."""
    return np.random.default_rng([seed, 0xD12A])


def queue_up(policy: Policy, episodes: Sequence[Asked]) -> Claim:
    """Each episode once, in order: on a CPU at the seat of its index, on a GPU at any."""
    if device_of(policy).type != "cpu":
        waiting = deque(episodes)
        return lambda seat: waiting.popleft() if waiting else None
    queues = [deque(e for e in episodes if e.index % SEATS == seat) for seat in range(SEATS)]
    return lambda seat: queues[seat].popleft() if queues[seat] else None


def rollout(
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
    """One episode a target and seed, in this process -> returns [N], lengths [N].

    targets: raw returns; bar: is told of every episode that ends; the rest: see `roll`.
    """
    asked = [Asked(i, t, s) for i, (t, s) in enumerate(zip(targets, seeds, strict=True))]
    returns, lengths = np.zeros(len(asked)), np.zeros(len(asked), np.int64)
    claim = queue_up(policy, asked)
    with one_thread():
        shared = (policy, conditioning, context_length)
        for obtained in roll(*shared, environments, claim, precision, temperature):
            returns[obtained.index], lengths[obtained.index] = obtained.total, obtained.length
            if bar is not None:
                bar.update()
    return returns, lengths


@contextmanager
def one_thread() -> Iterator[None]:
    """So small products gain little from threads, whose number shows in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device_of(policy: Policy) -> torch.device:
    return next(policy.parameters()).device


def roll(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    environments: Environments,
    claim: Claim,
    precision: torch.dtype = torch.float32,
    temperature: float = 0.0,
    stepped: Callable[[int], None] | None = None,
    observer: Observer | None = None,
) -> Iterator[Obtained]:
    """Roll out what `claim` gives, `len(environments)` episodes at a time, each to its own end.

    precision: of the policy's matrix products (autocast), where it carries something from step to
    step of the backbone's alone; temperature: at which actions are drawn, each episode's from its
    own seed; 0 takes the likeliest. stepped: is told how many
    environments were acted in; observer: notes a number of every step, for `Obtained.trace`.
    """
    policy.eval()
    conditioning = policy.conditioning(conditioning)
    tables = _Tables(policy, context_length, len(environments), precision, temperature)
    seats = _Seats(policy.spec, conditioning, environments, claim, tables, observer)
    seats.fill()
    while seats.taken.any():
        actions = tables.act(seats.news, seats.taken)
        if stepped is not None:
            stepped(int(seats.taken.sum()))
        yield from seats.step(actions)
        seats.fill()


class _Tables:
    """The policy's side: contexts, and what the policy carries, in tables of fixed shape."""

    def __init__(
        self,
        policy: Policy,
        context_length: int,
        environments: int,
        precision: torch.dtype,
        temperature: float,
    ) -> None:
        self.temperature, self.device = temperature, device_of(policy)
        self.seats = SEATS if self.device.type == "cpu" else environments
        self.count = -(-environments // self.seats)
        size = encoded_size(policy)
        self.kept = torch.zeros(self.count * self.seats, size, device=self.device)
        with torch.autocast(self.device.type, enabled=False):  # which may be the caller's
            states = policy.carry(self.count, self.seats, context_length, precision)
        self.states = list(states)
        carried = self.states[0] is not None  # it knows its precision
        low = precision != torch.float32 and not carried
        self.policy = lowered(policy, precision) if low else policy
        self.autocast = torch.autocast(self.device.type, precision, enabled=low)
        shown = min(context_length, 2) if carried else context_length
        self.context = Context(len(self.kept), shown, policy.spec, size, self.device)
        self.actions = torch.zeros_like(self.context.batch().actions[:, 0])

    @torch.inference_mode()
    def act(self, news: News, taken: np.ndarray) -> np.ndarray:
        """Take in the news, then act at every table where somebody sits -> [N, A] or [N]."""
        numbers, observations = news.on(self.device)
        tables = [
            (table, slice(table * self.seats, (table + 1) * self.seats))
            for table in range(self.count)
            if taken[table * self.seats : (table + 1) * self.seats].any()
        ]
        with self.autocast:
            for _, rows in tables:
                seen = self.policy.spec.one_step(observations[rows])
                self.kept[rows] = self.policy.encode(seen)[:, 0].to(self.kept.dtype)
            self.context.advance(self.actions, numbers, self.kept)
            for table, rows in tables:
                self.actions[rows], self.states[table] = self.policy.decide(
                    self.context.batch(rows), self.states[table], self._sampling(numbers[rows])
                )
        return self.actions.cpu().numpy()

    def _sampling(self, numbers: Tensor) -> Sampling | None:
        return Sampling(numbers[:, News.DRAW], self.temperature) if self.temperature else None


@torch.inference_mode()
def encoded_size(policy: Policy) -> int:
    """F, of what the policy keeps of an observation."""
    shape, device = policy.spec.observation_shape, device_of(policy)
    return policy.encode(policy.spec.one_step(torch.zeros(1, *shape, device=device))).shape[2]


class _Seats:
    """The environments' side: who sits where, and what became of him."""

    def __init__(
        self,
        spec: Spec,
        conditioning: Conditioning,
        environments: Environments,
        claim: Claim,
        tables: _Tables,
        observer: Observer | None,
    ) -> None:
        count = tables.count * tables.seats
        self.observer = observer
        self.traces: list[list[float]] = [[] for _ in range(count)]
        self.conditioning, self.environments, self.claim = conditioning, environments, claim
        self.seats_a_table, self.drawn = tables.seats, tables.temperature > 0
        self.taken = np.zeros(count, bool)
        self.environment = np.zeros(count, np.int64)  # of a taken seat
        self.free = deque(range(len(environments)))
        self.exhausted = np.zeros(tables.seats, bool)
        self.asked: list[Asked | None] = [None] * count
        self.drawing: list[np.random.Generator] = [np.random.default_rng(0)] * count
        self.targets = np.zeros(count)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, np.int64)
        self.news = News(count, spec, tables.device)

    def fill(self) -> None:
        """Begin the next episodes where seats and environments are free."""
        self.news.fresh[:] = 0
        for row in np.flatnonzero(~self.taken):
            seat = row % self.seats_a_table
            if not self.free or self.exhausted[seat]:
                continue
            asked = self.claim(int(seat))
            if asked is None:
                self.exhausted[seat] = True
                continue
            self.asked[row], self.taken[row] = asked, True
            self.drawing[row] = draws_of(asked.seed)
            self.environment[row] = self.free.popleft()
            self.targets[row] = np.nan if asked.target is None else asked.target
            self.returns[row], self.lengths[row] = 0.0, 0
            self.traces[row] = []
            first = self.environments.reset([asked.seed], self.environment[row : row + 1])
            self.news.observations[row] = first[0]
            self._draw([int(row)])
            self.news.conditions[row] = self.conditioning.prompt(self.targets[row : row + 1])[0]
            self.news.fresh[row] = 1

    def _draw(self, rows: Sequence[int] | np.ndarray) -> None:
        """A number of each episode's own, where actions are drawn at all."""
        if self.drawn:
            for row in rows:
                self.news.draws[row] = self.drawing[row].random(dtype=np.float32)

    def step(self, actions: np.ndarray) -> Iterator[Obtained]:
        """Act in every environment in use; the episodes that ended with it leave their seats."""
        rows = np.flatnonzero(self.taken)
        before = self.news.observations[rows]
        following, rewards, _, _ = self.environments.step(self.environment[rows], actions[rows])
        transition = Transition(before, actions[rows], rewards, following)
        self.news.conditions[rows] = self.conditioning.advance(
            self.news.conditions[rows], self.targets[rows], transition, self.lengths[rows]
        )
        if self.observer is not None:
            for row, value in zip(rows, self.observer(transition), strict=True):
                self.traces[row].append(float(value))
        self.news.observations[rows] = following
        self.news.rewards[rows] = rewards
        self._draw(rows)
        self.returns[rows] += rewards
        self.lengths[rows] += 1
        for row in rows[~self.environments.running[self.environment[rows]]]:
            asked = self.asked[row]
            assert asked is not None
            self.taken[row] = False
            self.free.append(int(self.environment[row]))
            trace = None if self.observer is None else np.array(self.traces[row])
            yield Obtained(asked.index, float(self.returns[row]), int(self.lengths[row]), trace)
