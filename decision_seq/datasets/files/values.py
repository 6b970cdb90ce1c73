"""Arrays of numbers from the inert values of a pickle, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from decision_seq.datasets.files.pickle_names import STORAGES
from decision_seq.datasets.files.stand_ins import NUMBER, Array, Damaged, NoPlainTensor, Tensor
from decision_seq.types import UserError

# Bytes of numbers that one byte of a file may become: a stored number is written once, and a
# recalled one takes two bytes. What is more repeats the same arrays to fill a disk.
MOST_GROWTH, LEAST = 8, 256 << 20
DEEPEST = 8  # lists within lists


class Values:
    """Conversion of a file's values; the numbers of all arrays are counted.

    size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = max(MOST_GROWTH * size, LEAST)

    def array(self, value: Any, name: str) -> np.ndarray | None:
        """The numbers of an array, a tensor, or lists of numbers or arrays; None for other values.

        UserError for lists of different lengths, or more numbers than the file can hold.
        """
        if isinstance(value, Array):
            if value.objects is not None:
                return self._stacked(value.objects, name)
            if not value.numeric:
                return None
            self.spend(value.bytes)
            return value.numpy()
        if isinstance(value, Tensor):
            return self._tensor(value, name)
        if isinstance(value, NoPlainTensor):
            raise UserError(f"{name} is no plain array of numbers; save a dense array")
        if isinstance(value, list | tuple):
            return self._stacked(value, name)
        return None

    def spend(self, amount: int) -> None:
        """Count bytes of numbers; UserError when there are more than the file can hold."""
        self.left -= amount
        if self.left < 0:
            raise UserError(
                f"its {self.size / 1e6:.1f} MB repeat the same arrays to more than"
                f" {max(MOST_GROWTH * self.size, LEAST) / 1e9:.1f} GB, which no trajectories do; it"
                " is not read"
            )

    def _stacked(self, items: Sequence[Any], name: str) -> np.ndarray | None:
        """[n, ...] of n numbers, arrays or lists."""
        shape = [len(items)]
        while items and isinstance(items[0], list | tuple):
            if len(shape) > DEEPEST:
                raise UserError(f"{name} are lists more than {DEEPEST} deep")
            if not all(isinstance(item, list | tuple) for item in items):
                return None
            lengths = {len(item) for item in items}
            if len(lengths) > 1:
                raise UserError(
                    f"{name} hold lists of {min(lengths)} to {max(lengths)} entries; one size is"
                    " needed"
                )
            shape.append(lengths.pop())
            self.spend(8 * len(items) * shape[-1])
            items = list(itertools.chain.from_iterable(items))
        flat = self._leaves(items, name)
        return None if flat is None else flat.reshape(*shape, *flat.shape[1:])

    def _leaves(self, items: Sequence[Any], name: str) -> np.ndarray | None:
        kinds = set(map(type, items))
        if not kinds:
            return np.empty(0)
        if kinds <= {int, float, bool}:
            self.spend(8 * len(items))
            try:
                array = np.array(items)
            except (OverflowError, ValueError) as error:
                raise UserError(f"{name} hold numbers beyond any range") from error
            return array if array.dtype.kind in "fiub" else None
        if not kinds <= {Array, Tensor}:
            return None
        arrays = [self.array(item, name) for item in items]
        numbers = [array for array in arrays if array is not None]
        shapes = {array.shape for array in numbers}
        if len(numbers) < len(arrays) or len(shapes) != 1:
            listed = " and ".join(map(str, sorted(shapes)[:2]))
            raise UserError(f"{name} hold arrays of different shapes ({listed}); one is needed")
        self.spend(sum(array.nbytes for array in numbers))
        return np.stack(numbers)

    def _tensor(self, tensor: Tensor, name: str) -> np.ndarray:
        kind, data = STORAGES[tensor.storage.kind], tensor.storage.data
        if tensor.kind is not None or not NUMBER.fullmatch(kind) or data is None:
            raise UserError(f"{name} is a tensor of {tensor.storage.kind}; save it as float32")
        if not plain(tensor):
            raise UserError(f"{name} is no plain array of numbers; save a dense array")
        if tensor.numel == 0:
            return np.empty(tensor.shape, f"<{kind}")
        stored = np.frombuffer(data, f"<{kind}")
        self.spend(tensor.numel * stored.itemsize)
        strides = tuple(stored.itemsize * step for step in tensor.strides)
        start = stored[tensor.offset :]
        return np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False)


def plain(tensor: Tensor) -> bool:
    """Whether the storage holds each number of the tensor; Damaged if it reaches beyond it."""
    numel = tensor.storage.numel
    if tensor.numel == 0:
        return True
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((length - 1) * step for length, step in steps)
    if last >= numel:
        raise Damaged("a tensor reaches beyond its numbers")
    return tensor.numel <= numel
