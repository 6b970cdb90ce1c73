"""Column: a memory-mapped array on disk, gathered by one fancy index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from decision_seq.machine.files import unavailable
from decision_seq.reading import Unreadable
from decision_seq.types import UserError


class StoreDamaged(UserError):
    """Error for a store that is cut short, or whose header does not describe its columns."""


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error for the store in the folder `path`."""
    return StoreDamaged(f"store {path}: {what}; delete the store to have it rebuilt")


def cannot_read(path: Path, file: str, error: BaseException) -> UserError:
    """The error for a file of the store in `path` that cannot be read.

    A store is damaged only where the file itself is at fault. Where the system refuses to open it
    now, because of permissions, open files or memory, the store stays as it is.
    """
    now = unavailable(error)
    if now is not None:
        return UserError(f"store {path}: {file} cannot be opened now: {now}")
    return damaged(path, f"{file} cannot be read")


def cannot_open(path: Path, file: str, error: Unreadable) -> UserError:
    """As `cannot_read`, for an error of `decision_seq.reading`."""
    if isinstance(error.__cause__, OSError):
        return cannot_read(path, file, error.__cause__)
    return damaged(path, f"{file} cannot be read: it {error.reason}")


class Column:
    """A memory-mapped array of rows, gathered by one fancy index."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)  # an ndarray is indexed faster than a memmap
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows of any shape R -> [*R, ...]."""
        return self.array[rows]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Consecutive rows start to stop - 1 -> [stop - start, ...], a view if possible."""
        return self.array[start:stop]

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows start to start + length - 1 of every start [B] -> [B, length, ...].

        It copies once per window, not once per row. After the last row, the last is repeated.
        """
        last = len(self) - length
        if last < 0 or starts.max() > last:
            steps = np.arange(length)
            return self.take(np.minimum(starts[:, None] + steps, len(self) - 1))
        shape = (last + 1, length, *self.shape[1:])
        strides = (self.array.strides[0], *self.array.strides)
        return np.lib.stride_tricks.as_strided(self.array, shape, strides, writeable=False)[starts]
