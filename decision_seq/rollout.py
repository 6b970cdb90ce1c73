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
from decision_seq.types import Bar, Batch, Sampling, Spec, Transition

SEATS = 8  # rows of a table; more are hardly faster a row on a CPU, and leave more seats empty


class Context:
    """The last K steps of N live episodes on the policy's device, padded on the right.

    The newest step of row i is at `lengths[i] - 1`; its action and reward are not known yet and
    are 0, which no causal policy reads. Shapes never change, and nothing is read back.

    size: F, of what the policy keeps of an observation.
    """

    def __init__(
        self,
        count: int,
        context_length: int,
        spec: Spec,
        size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spec = spec
        self.continuous = spec.action_kind == "continuous"
        width = spec.action_size if self.continuous else 1
        # One array, so that a step moves one.
        sizes = (spec.condition_size, size, 1, width)
        self._data = torch.zeros(count, context_length, sum(sizes), device=device)
        self._conditions, self._observations, self._rewards, self._actions = self._data.split(
            sizes, 2
        )
        self.lengths = torch.zeros(count, dtype=torch.int64, device=device)
        self._timestep = torch.zeros_like(self.lengths)  # of the newest step
        self._rows = torch.arange(count, device=device)
        self._steps = torch.arange(context_length, device=device)

    def advance(self, actions: Tensor, numbers: Tensor, observations: Tensor) -> None:
        """Complete every row's newest step and open the next; a fresh row begins anew.

        actions: [N, A] or [N], as the policy gave them; numbers: [N, 3 + C], see `News`;
        observations: [N, F], what the policy keeps of the new ones.
        """
        fresh = numbers[:, News.FRESH] > 0
        filled = torch.where(fresh, 0, self.lengths)
        newest = (filled - 1).clamp(min=0)
        self._actions[self._rows, newest] = actions.view(len(actions), -1).to(self._data.dtype)
        self._rewards[self._rows, newest, 0] = numbers[:, News.REWARD]
        shifted = self._steps + (filled == len(self._steps))[:, None]  # [N, K]
        shifted = shifted.clamp(max=len(self._steps) - 1)[:, :, None].expand_as(self._data)
        self._data.copy_(self._data.gather(1, shifted))
        self.lengths = (filled + 1).clamp(max=len(self._steps))
        self._timestep = torch.where(fresh, 0, self._timestep + 1)
        opened = torch.zeros_like(self._data[:, 0])  # its reward and its action are to come
        known = torch.cat([numbers[:, News.CONDITION :], observations], 1)
        opened[:, : known.shape[1]] = known
        self._data[self._rows, self.lengths - 1] = opened

    def batch(self, rows: slice = slice(None)) -> Batch:
        """The contexts of `rows`, [R, K] whatever their lengths, observations as they are kept."""
        first = self._timestep[rows, None] - self.lengths[rows, None] + 1
        actions = self._actions[rows]
        return Batch(
            observations=self._observations[rows],
            actions=actions if self.continuous else actions[:, :, 0].long(),
            rewards=self._rewards[rows, :, 0],
            conditions=self._conditions[rows],
            timesteps=(first + self._steps).clamp(0, self.spec.max_timestep - 1),
            mask=self._steps < self.lengths[rows, None],
        )


class News:
    """What the environments told, in one buffer of bytes, so that a step moves it by one copy.

    numbers [N, 3 + C] float32: whether an episode begins, the reward of the step before, a number
    in [0, 1) to draw an action by, the condition. observations [N, ...] of the new step: float32,
    or uint8 where they are frames.
    """

    FRESH, REWARD, DRAW, CONDITION = range(4)

    def __init__(self, count: int, spec: Spec, device: torch.device) -> None:
        self.shape = (count, *spec.observation_shape)
        self.dtype = torch.uint8 if spec.pixels else torch.float32
        self.columns = self.CONDITION + spec.condition_size
        size = 4 * count * self.columns + self.dtype.itemsize * int(np.prod(self.shape))
        self.buffer = torch.zeros(size, dtype=torch.uint8)
        if device.type == "cuda":
            self.buffer = self.buffer.pin_memory()
        numbers, observations = self.on(torch.device("cpu"))
        self.observations, array = observations.numpy(), numbers.numpy()
        self.fresh, self.rewards = array[:, self.FRESH], array[:, self.REWARD]
        self.draws, self.conditions = array[:, self.DRAW], array[:, self.CONDITION :]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The numbers and the observations on the device."""
        moved = self.buffer.to(device, non_blocking=True)
        split = 4 * self.shape[0] * self.columns
        numbers = moved[:split].view(torch.float32).view(-1, self.columns)
        return numbers, moved[split:].view(self.dtype).view(self.shape)


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
) -> Iterator[Obtained]:
    """Roll out what `claim` gives, `len(environments)` episodes at a time, each to its own end.

    precision: of the policy's matrix products (autocast); temperature: at which discrete actions
    are drawn, each episode's from its own seed; 0 takes the likeliest.
    """
    policy.eval()
    tables = _Tables(policy, context_length, len(environments), precision, temperature)
    seats = _Seats(policy.spec, conditioning, environments, claim, tables)
    seats.fill()
    while seats.taken.any():
        actions = tables.act(seats.news, seats.taken)
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
        self.policy, self.precision, self.temperature = policy, precision, temperature
        self.device = device_of(policy)
        self.seats = SEATS if self.device.type == "cpu" else environments
        self.count = -(-environments // self.seats)
        size = encoded_size(policy)
        self.kept = torch.zeros(self.count * self.seats, size, device=self.device)
        self.context = Context(len(self.kept), context_length, policy.spec, size, self.device)
        self.states: list[Any] = [None] * self.count
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
        low = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=low):
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
    ) -> None:
        count = tables.count * tables.seats
        self.conditioning, self.environments, self.claim = conditioning, environments, claim
        self.seats_a_table = tables.seats
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
            first = self.environments.reset([asked.seed], self.environment[row : row + 1])
            self.news.observations[row] = first[0]
            self.news.draws[row] = self.drawing[row].random(dtype=np.float32)
            self.news.conditions[row] = self.conditioning.prompt(self.targets[row : row + 1])[0]
            self.news.fresh[row] = 1

    def step(self, actions: np.ndarray) -> Iterator[Obtained]:
        """Act in every environment in use; the episodes that ended with it leave their seats."""
        rows = np.flatnonzero(self.taken)
        before = self.news.observations[rows]
        following, rewards, _, _ = self.environments.step(self.environment[rows], actions[rows])
        transition = Transition(before, actions[rows], rewards, following)
        self.news.conditions[rows] = self.conditioning.advance(
            self.news.conditions[rows], self.targets[rows], transition, self.lengths[rows]
        )
        self.news.observations[rows] = following
        self.news.rewards[rows] = rewards
        for row in rows:
            self.news.draws[row] = self.drawing[row].random(dtype=np.float32)
        self.returns[rows] += rewards
        self.lengths[rows] += 1
        for row in rows[~self.environments.running[self.environment[rows]]]:
            asked = self.asked[row]
            assert asked is not None
            self.taken[row] = False
            self.free.append(int(self.environment[row]))
            yield Obtained(asked.index, float(self.returns[row]), int(self.lengths[row]))
