"""Rolling a policy out: the context it sees, and the steps of many episodes together.

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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq.data.conditioning import Conditioning
from decision_seq.envs import Environments
from decision_seq.policies.base import Policy
from decision_seq.types import Bar, Batch, Spec, Transition

SEATS = 8  # rows of a table; more are hardly faster a row on a CPU, and leave more seats empty


class Context:
    """The last K steps of N live episodes on the policy's device, padded on the right.

    The newest step of row i is at `lengths[i] - 1`; its action and reward are not known yet and
    are 0, which no causal policy reads. Shapes never change, and nothing is read back.
    """

    def __init__(
        self, count: int, context_length: int, spec: Spec, device: torch.device | str = "cpu"
    ) -> None:
        self.spec = spec
        self.continuous = spec.action_kind == "continuous"
        width = spec.action_size if self.continuous else 1
        observation = int(np.prod(spec.observation_shape))
        # One array, so that a step moves one; what the news hold of a step comes first.
        sizes = (1, spec.condition_size, observation, width)
        self._data = torch.zeros(count, context_length, sum(sizes), device=device)
        self._rewards, self._conditions, self._observations, self._actions = self._data.split(
            sizes, 2
        )
        self.lengths = torch.zeros(count, dtype=torch.int64, device=device)
        self._timestep = torch.zeros_like(self.lengths)  # of the newest step
        self._rows = torch.arange(count, device=device)
        self._steps = torch.arange(context_length, device=device)

    def advance(self, actions: Tensor, news: Tensor) -> None:
        """Complete every row's newest step and open the next; a fresh row begins anew.

        actions: [N, A] or [N], as the policy gave them. news: [N, 2 + C + S], see `News`: all
        that the host knows, in one copy.
        """
        fresh = news[:, News.FRESH] > 0
        filled = torch.where(fresh, 0, self.lengths)
        newest = (filled - 1).clamp(min=0)
        self._actions[self._rows, newest] = actions.view(len(actions), -1).to(self._data.dtype)
        self._rewards[self._rows, newest, 0] = news[:, News.REWARD]
        shifted = self._steps + (filled == len(self._steps))[:, None]  # [N, K]
        shifted = shifted.clamp(max=len(self._steps) - 1)[:, :, None].expand_as(self._data)
        self._data.copy_(self._data.gather(1, shifted))
        self.lengths = (filled + 1).clamp(max=len(self._steps))
        self._timestep = torch.where(fresh, 0, self._timestep + 1)
        opened = torch.zeros_like(self._data[:, 0])
        opened[:, 1 : news.shape[1] - 1] = news[:, 2:]  # its reward and its action are to come
        self._data[self._rows, self.lengths - 1] = opened

    def batch(self, rows: slice = slice(None)) -> Batch:
        """The contexts of `rows`, [R, K] whatever their lengths."""
        first = self._timestep[rows, None] - self.lengths[rows, None] + 1
        actions = self._actions[rows]
        return Batch(
            observations=self._observations[rows].unflatten(2, self.spec.observation_shape),
            actions=actions if self.continuous else actions[:, :, 0].long(),
            rewards=self._rewards[rows, :, 0],
            conditions=self._conditions[rows],
            timesteps=(first + self._steps).clamp(0, self.spec.max_timestep - 1),
            mask=self._steps < self.lengths[rows, None],
        )


class News:
    """What the environments told: [N, 2 + C + S] float32 on the host, pinned where a GPU reads it.

    A row holds whether an episode begins, the reward of the step before, the condition and the
    observation of the new step.
    """

    FRESH, REWARD = 0, 1

    def __init__(self, count: int, spec: Spec, device: torch.device) -> None:
        size = int(np.prod(spec.observation_shape))
        self.tensor = torch.zeros(count, 2 + spec.condition_size + size)
        if device.type == "cuda":
            self.tensor = self.tensor.pin_memory()
        array = self.tensor.numpy()
        self.fresh, self.rewards = array[:, self.FRESH], array[:, self.REWARD]
        self.conditions = array[:, 2 : 2 + spec.condition_size]
        self.observations = array[:, 2 + spec.condition_size :]


@dataclass(frozen=True)
class Asked:
    """An episode to roll out: its number, the raw return asked for (None: nothing), its seed."""

    index: int
    target: float | None
    seed: int


@dataclass(frozen=True)
class Obtained:
    """What became of it: the undiscounted raw return, the number of steps."""

    index: int
    total: float
    length: int


# The next episode of a seat, None when there are no more.
Claim = Callable[[int], Asked | None]


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
) -> tuple[np.ndarray, np.ndarray]:
    """One episode a target and seed, in this process -> returns [N], lengths [N].

    targets: raw returns; bar: is told of every episode that ends; precision: see `roll`.
    """
    asked = [Asked(i, t, s) for i, (t, s) in enumerate(zip(targets, seeds, strict=True))]
    returns, lengths = np.zeros(len(asked)), np.zeros(len(asked), np.int64)
    claim = queue_up(policy, asked)
    with one_thread():
        for obtained in roll(policy, conditioning, context_length, environments, claim, precision):
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
) -> Iterator[Obtained]:
    """Roll out what `claim` gives, `len(environments)` episodes at a time, each to its own end.

    precision: of the policy's matrix products (autocast).
    """
    policy.eval()
    tables = _Tables(policy, context_length, len(environments), precision)
    seats = _Seats(policy.spec, conditioning, environments, claim, tables)
    seats.fill()
    while seats.taken.any():
        actions = tables.act(seats.news, seats.taken)
        yield from seats.step(actions)
        seats.fill()


class _Tables:
    """The policy's side: contexts, and what the policy carries, in tables of fixed shape."""

    def __init__(
        self, policy: Policy, context_length: int, environments: int, precision: torch.dtype
    ) -> None:
        self.policy, self.precision = policy, precision
        self.device = device_of(policy)
        self.seats = SEATS if self.device.type == "cpu" else environments
        self.count = -(-environments // self.seats)
        self.context = Context(self.count * self.seats, context_length, policy.spec, self.device)
        self.states: list[Any] = [None] * self.count
        self.actions = torch.zeros_like(self.context.batch().actions[:, 0])

    @torch.inference_mode()
    def act(self, news: News, taken: np.ndarray) -> np.ndarray:
        """Take in the news, then act at every table where somebody sits -> [N, A] or [N]."""
        self.context.advance(self.actions, news.tensor.to(self.device, non_blocking=True))
        for table in range(self.count):
            rows = slice(table * self.seats, (table + 1) * self.seats)
            if taken[rows].any():
                low = self.precision != torch.float32
                with torch.autocast(self.device.type, self.precision, enabled=low):
                    self.actions[rows], self.states[table] = self.policy.act(
                        self.context.batch(rows), self.states[table]
                    )
        return self.actions.cpu().numpy()


class _Seats:
    """The environments' side: who sits where, and what became of him."""

    def __init__(
        self,
        spec: Spec,
        conditioning: Conditioning,
        environments: Environments,
        claim: Claim,
        tables: _Tables,
    ) -> None:
        count = tables.count * tables.seats
        self.conditioning, self.environments, self.claim = conditioning, environments, claim
        self.seats_a_table, self.shape = tables.seats, spec.observation_shape
        self.taken = np.zeros(count, bool)
        self.environment = np.zeros(count, np.int64)  # of a taken seat
        self.free = deque(range(len(environments)))
        self.exhausted = np.zeros(tables.seats, bool)
        self.asked: list[Asked | None] = [None] * count
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
            self.environment[row] = self.free.popleft()
            self.targets[row] = np.nan if asked.target is None else asked.target
            self.returns[row], self.lengths[row] = 0.0, 0
            first = self.environments.reset([asked.seed], self.environment[row : row + 1])
            self.news.observations[row] = first.reshape(-1)
            self.news.conditions[row] = self.conditioning.prompt(self.targets[row : row + 1])[0]
            self.news.fresh[row] = 1

    def step(self, actions: np.ndarray) -> Iterator[Obtained]:
        """Act in every environment in use; the episodes that ended with it leave their seats."""
        rows = np.flatnonzero(self.taken)
        before = self.news.observations[rows].reshape(-1, *self.shape)
        following, rewards, _, _ = self.environments.step(self.environment[rows], actions[rows])
        transition = Transition(before, actions[rows], rewards, following)
        self.news.conditions[rows] = self.conditioning.advance(
            self.news.conditions[rows], self.targets[rows], transition, self.lengths[rows]
        )
        self.news.observations[rows] = following.reshape(len(rows), -1)
        self.news.rewards[rows] = rewards
        self.returns[rows] += rewards
        self.lengths[rows] += 1
        for row in rows[~self.environments.running[self.environment[rows]]]:
            asked = self.asked[row]
            assert asked is not None
            self.taken[row] = False
            self.free.append(int(self.environment[row]))
            yield Obtained(asked.index, float(self.returns[row]), int(self.lengths[row]))
