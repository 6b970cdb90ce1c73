"""Running episodes of a policy: their contexts, conditions and draws, one row an episode.

On a CPU a policy always receives policy batches of `SLOTS` rows and a fixed number of steps, on one
thread: the last bits of a matrix product depend on the shapes of the matrices. A rollout and an
`Agent` both act through these rows, so their actions are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from decision_seq.evaluation.acting import make_actor
from decision_seq.evaluation.context import Context, StepBuffer
from decision_seq.policies.base import Policy
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Sampling, Transition

SLOTS = 8  # rows of a policy batch; more are hardly faster per row on a CPU, and more stay empty


def draws_of(seed: int) -> np.random.Generator:
    """Generator for the draws of an episode's actions, independent of its environment's draws."""
    return np.random.default_rng([seed, 0xD12A])


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread: the number of threads changes the last bits of a product, and
    products this small gain little from more threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device_of(policy: Policy) -> torch.device:
    return next(policy.parameters()).device


class EpisodeRows:
    """Rows of running episodes, in policy batches of fixed shape.

    rows: number of episodes that may run at once; it is rounded up to whole policy batches.
    precision: dtype of the policy's matrix products (autocast); for a `SlidingActor` it applies to
    the backbone only. temperature: temperature of the drawn actions, with draws from each episode's
    own seed; 0 takes the likeliest.
    """

    def __init__(
        self,
        policy: Policy,
        conditioning: Conditioning,
        context_length: int,
        rows: int,
        precision: torch.dtype = torch.float32,
        temperature: float = 0.0,
    ) -> None:
        policy.eval()
        self.conditioning = policy.conditioning(conditioning)
        self.temperature, self.device = temperature, device_of(policy)
        self.batch_rows = SLOTS if self.device.type == "cpu" else rows
        self.batches = -(-rows // self.batch_rows)
        count, size = self.batches * self.batch_rows, encoded_size(policy)
        self.encoded = torch.zeros(count, size, device=self.device)
        self.spec = policy.spec
        with torch.autocast(self.device.type, enabled=False):  # the caller may be in autocast
            self.actor = make_actor(
                policy, self.batches, self.batch_rows, context_length, precision
            )
        self.context = Context(count, self.actor.shown, self.spec, size, self.device)
        self.actions = torch.zeros_like(self.context.batch().actions[:, 0])
        self.buffer = StepBuffer(count, self.spec, self.device)
        self.targets = np.zeros(count)
        self.lengths = np.zeros(count, np.int64)  # steps done
        self._draws: list[np.random.Generator] = [np.random.default_rng(0)] * count

    def __len__(self) -> int:
        return len(self.encoded)

    def begin(self, row: int, observation: np.ndarray, target: float | None, seed: int) -> None:
        """Begin an episode in a row.

        observation: its first; target: of the raw return, None for a policy without a target;
        seed: of the drawn actions.
        """
        self._draws[row] = draws_of(seed)
        self.targets[row] = np.nan if target is None else target
        self.lengths[row] = 0
        self.buffer.observations[row] = observation
        self._draw([row])
        self.buffer.conditions[row] = self.conditioning.prompt(self.targets[row : row + 1])[0]
        self.buffer.fresh[row] = 1

    def advance(
        self, rows: np.ndarray, actions: np.ndarray, rewards: np.ndarray, observations: np.ndarray
    ) -> Transition:
        """Complete the rows' newest steps and append the next -> the completed transitions.

        actions: [R, A] or [R]; rewards: [R]; observations: [R, ...] after them.
        """
        transition = Transition(self.buffer.observations[rows], actions, rewards, observations)
        self.buffer.conditions[rows] = self.conditioning.advance(
            self.buffer.conditions[rows], self.targets[rows], transition, self.lengths[rows]
        )
        self.buffer.observations[rows] = observations
        self.buffer.rewards[rows] = rewards
        self._draw(rows)
        self.lengths[rows] += 1
        return transition

    def _draw(self, rows: Sequence[int] | np.ndarray) -> None:
        """Draw each episode's number for its next action, where actions are drawn."""
        if self.temperature > 0:
            for row in rows:
                self.buffer.draws[row] = self._draws[row].random(dtype=np.float32)

    def act(self, taken: np.ndarray) -> np.ndarray:
        """The actions of all rows, [N, A] or [N]; only those of `taken` rows, [N] bool, count."""
        with one_thread(), torch.inference_mode():
            return self._act(taken)

    def _act(self, taken: np.ndarray) -> np.ndarray:
        numbers, observations = self.buffer.on(self.device)
        slices = (
            slice(batch * self.batch_rows, (batch + 1) * self.batch_rows)
            for batch in range(self.batches)
        )
        in_use = [(batch, rows) for batch, rows in enumerate(slices) if taken[rows].any()]
        for _, rows in in_use:
            seen = self.spec.one_step(observations[rows])
            self.encoded[rows] = self.actor.encode(seen)[:, 0].to(self.encoded.dtype)
        self.context.advance(self.actions, numbers, self.encoded)
        for batch, rows in in_use:
            sampling = self._sampling(numbers[rows])
            self.actions[rows] = self.actor.decide(batch, self.context.batch(rows), sampling)
        actions = self.actions.cpu().numpy()  # on a GPU this waits until the buffer has been read
        self.buffer.fresh[:] = 0
        return actions

    def _sampling(self, numbers: Tensor) -> Sampling | None:
        return Sampling(numbers[:, StepBuffer.DRAW], self.temperature) if self.temperature else None


@torch.inference_mode()
def encoded_size(policy: Policy) -> int:
    """F, the number of features into which the policy encodes an observation."""
    shape, device = policy.spec.observation_shape, device_of(policy)
    return policy.encode(policy.spec.one_step(torch.zeros(1, *shape, device=device))).shape[2]
