"""Sources of an update's windows: the store in host memory, or a copy of it on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decision_seq.datasets.store import Column
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Batch

PART_ROWS = 8192  # frames decoded and copied to the device at a time


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
    """Windows gathered on the device from a copy of the columns; only their ids are transferred.

    The batches are equal to HostSource's, to the bit. Frames are stored decoded, one byte per
    pixel.
    """

    def __init__(
        self, gatherer: WindowGatherer, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        def place(array: np.ndarray) -> Tensor:
            tensor = torch.as_tensor(np.array(array))
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

        store = gatherer.store
        self.columns = {name: place(store.columns[name].array) for name in ("actions", "rewards")}
        self.columns["conditions"] = place(gatherer.conditions.array)
        observations = store.columns["observations"]
        self.framed = store.stack > 1
        self.observations = (
            _decoded(observations, device) if self.framed else place(observations.array)
        )
        self.frames = torch.as_tensor(gatherer.frames).to(device)
        self.offsets = torch.as_tensor(np.array(store.offsets)).to(device)
        self.terminal = torch.as_tensor(gatherer.terminal).to(device)
        self.steps = torch.as_tensor(gatherer.steps).to(device)
        self.after = torch.as_tensor(gatherer.after).to(device)
        self.max_timestep = gatherer.max_timestep
        self.device = device

    def batch(self, ids: np.ndarray) -> Batch:
        """Rows of first transitions [B] -> a torch Batch."""
        return self.windows(torch.as_tensor(ids).to(self.device, non_blocking=True))

    def windows(self, ids: Tensor) -> Batch:
        """As `batch`, from ids on the device; no synchronization, so a CUDA graph can hold it."""
        ends = torch.searchsorted(self.offsets, ids, right=True)  # [B]
        firsts = self.offsets[ends - 1]
        rows = (ids[:, None] + self.steps).clamp_max(len(self.columns["rewards"]) - 1)  # [B, T]
        timesteps = (ids - firsts)[:, None] + self.steps
        left = (self.offsets[ends] - ids)[:, None]
        return Batch(
            observations=self._stacked(ids, firsts) if self.framed else self.observations[rows],
            **{name: column[rows] for name, column in self.columns.items()},
            timesteps=timesteps.clamp_max(self.max_timestep - 1),
            mask=self.steps < left,
            terminated=self.steps == (self.terminal[ends - 1] - ids)[:, None],
            ids=ids,
            **(self._futures(ids, left) if len(self.after) else {}),
        )

    def _futures(self, ids: Tensor, left: Tensor) -> dict[str, Tensor]:
        rows = (ids[:, None] + self.after).clamp_max(len(self.observations) - 1)
        return {"futures": self.observations[rows], "futures_mask": self.after < left}

    def _stacked(self, ids: Tensor, firsts: Tensor) -> Tensor:
        """Frames [B, T + stack - 1, H, W], in the layout of `WindowGatherer`."""
        rows = ids[:, None] + self.frames
        frames = self.observations[rows.clamp(0, len(self.observations) - 1)]
        return frames.masked_fill_((rows < firsts[:, None])[..., None, None], 0)


def _decoded(column: Column, device: torch.device) -> Tensor:
    """All frames of a column on the device, [N, H, W] uint8, copied in parts of `PART_ROWS`."""
    frames = torch.empty(column.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(column), PART_ROWS):
        stop = min(start + PART_ROWS, len(column))
        frames[start:stop] = torch.as_tensor(column.rows(start, stop))
    return frames
