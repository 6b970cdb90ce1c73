"""Where an update takes its windows from: the store in host memory, or a copy on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decision_seq.data.sampler import WindowGatherer
from decision_seq.types import Batch


class HostSource:
    """Windows gathered by numpy from memory-mapped columns, then copied to the device."""

    def __init__(
        self, gatherer: WindowGatherer, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.gatherer, self.device, self.dtype = gatherer, device, dtype

    def batch(self, ids: np.ndarray) -> Batch:
        """Rows of first transitions [B] -> a torch Batch."""
        return self.gatherer.gather(ids).tensors(self.device, self.dtype)


class DeviceSource:
    """The columns themselves on the device: only the ids of the windows travel there.

    The same batches as HostSource's, to the bit.
    """

    def __init__(
        self, gatherer: WindowGatherer, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        def place(array: np.ndarray) -> Tensor:
            tensor = torch.as_tensor(np.array(array))
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

        self.columns = {
            name: place(column.array)
            for name, column in gatherer.store.columns.items()
            if name in ("observations", "actions", "rewards")
        }
        self.columns["conditions"] = place(gatherer.conditions.array)
        self.offsets = torch.as_tensor(np.array(gatherer.store.offsets)).to(device)
        self.steps = torch.as_tensor(gatherer.steps).to(device)
        self.max_timestep = gatherer.max_timestep
        self.device = device

    def batch(self, ids: np.ndarray) -> Batch:
        """Rows of first transitions [B] -> a torch Batch."""
        return self.windows(torch.as_tensor(ids).to(self.device, non_blocking=True))

    def windows(self, ids: Tensor) -> Batch:
        """As `batch`, of ids on the device; waits for nothing, so that a CUDA graph can hold it."""
        ends = torch.searchsorted(self.offsets, ids, right=True)  # [B]
        rows = (ids[:, None] + self.steps).clamp_max(len(self.columns["rewards"]) - 1)  # [B, T]
        timesteps = (ids - self.offsets[ends - 1])[:, None] + self.steps
        return Batch(
            **{name: column[rows] for name, column in self.columns.items()},
            timesteps=timesteps.clamp_max(self.max_timestep - 1),
            mask=self.steps < (self.offsets[ends] - ids)[:, None],
        )
