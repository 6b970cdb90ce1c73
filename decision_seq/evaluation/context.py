"""Contexts of running episodes, and the buffer that brings each step to the policy's device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decision_seq.types import Batch, Spec


class Context:
    """The last K steps of N running episodes on the policy's device, padded on the right.

    The newest step of row i is at `lengths[i] - 1`. Its action and reward are not known yet; they
    are 0, and no causal policy reads them. Shapes never change, and nothing is copied back from the
    device.

    size: F, the number of features of an encoded observation.
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
        # One array, so that a step moves only one. First what is known when a step begins, then
        # what is known when it ends.
        sizes = spec.condition_size, size, 1, width
        self._data = torch.zeros(count, context_length, sum(sizes), device=device)
        self._conditions, self._observations, self._rewards, self._actions = self._data.split(
            sizes, 2
        )
        self._flat = self._data.flatten(0, 1)  # [N * K, ...]
        self._ends = self._flat[:, -1 - width :]
        self._to_come = torch.zeros(count, 1 + width, device=device)
        self.lengths = torch.zeros(count, dtype=torch.int64, device=device)
        self._timestep = torch.zeros_like(self.lengths)  # of the newest step
        self._rows = torch.arange(count, device=device) * context_length
        # Lookup tables by a row's length, 0 to K: its newest step, its length with the next step
        # added, and the steps that are retained then.
        lengths = torch.arange(context_length + 1, device=device)
        self._steps = lengths[:-1]
        self._newest = (lengths - 1).clamp(min=0)
        self._longer = (lengths + 1).clamp(max=context_length)
        full = (lengths == context_length)[:, None]
        self._retained = (self._steps + full).clamp(max=context_length - 1)  # [K + 1, K]

    def advance(self, actions: Tensor, numbers: Tensor, observations: Tensor) -> None:
        """Complete every row's newest step and append the next; a fresh row starts empty.

        actions: [N, A] or [N], as the policy returned them; numbers: [N, 3 + C], see `StepBuffer`;
        observations: [N, F], encoded by the policy.
        """
        fresh = numbers[:, StepBuffer.FRESH] > 0
        filled = self.lengths.masked_fill(fresh, 0)
        acted = actions.view(len(actions), -1).to(self._data.dtype)
        ended = torch.cat([numbers[:, StepBuffer.REWARD, None], acted], 1)
        self._ends.index_copy_(0, self._newest[filled] + self._rows, ended)
        retained = self._retained.index_select(0, filled) + self._rows[:, None]
        self._flat.copy_(self._flat.index_select(0, retained.flatten()))
        self._data.masked_fill_(fresh[:, None, None], 0)  # NaN would pass the attention mask
        self.lengths = self._longer[filled]
        self._timestep = (self._timestep + 1).masked_fill_(fresh, 0)
        begun = torch.cat([numbers[:, StepBuffer.CONDITION :], observations, self._to_come], 1)
        self._flat.index_copy_(0, self._newest[self.lengths] + self._rows, begun)

    def batch(self, rows: slice = slice(None)) -> Batch:
        """The contexts of `rows`, [R, K] for any lengths, with encoded observations."""
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


class StepBuffer:
    """Step buffer: the environments' output of one step in a single byte buffer.

    A step moves it to the device by one copy. numbers [N, 3 + C] float32: whether an episode
    begins, the reward of the previous step, a number in [0, 1) to draw an action by, the condition.
    observations [N, ...] of the new step: float32, or uint8 for frames.
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
        self._here = self._parts(self.buffer)
        numbers, observations = self._here
        self.observations, array = observations.numpy(), numbers.numpy()
        self.fresh, self.rewards = array[:, self.FRESH], array[:, self.REWARD]
        self.draws, self.conditions = array[:, self.DRAW], array[:, self.CONDITION :]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The numbers and the observations on the device."""
        if device.type == "cpu":
            return self._here
        return self._parts(self.buffer.to(device, non_blocking=True))

    def _parts(self, buffer: Tensor) -> tuple[Tensor, Tensor]:
        split = 4 * self.shape[0] * self.columns
        numbers = buffer[:split].view(torch.float32).view(-1, self.columns)
        return numbers, buffer[split:].view(self.dtype).view(self.shape)
