"""Inert values that stand for NumPy's and PyTorch's objects while a pickle is read.

They hold what the pickle says of an array: its kind of number, shape, order and bytes. All of it is
checked before NumPy makes an array of it, by `numpy.frombuffer`.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from decision_seq.types import UserError

MOST_DIMENSIONS, MOST_LENGTH = 16, 2**48
NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
UNITS = {"b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q"}
UNITS |= {"u8": "Q", "f2": "e", "f4": "f", "f8": "d"}  # of the module struct
_NATIVE = ("<", "|", "=")


class Damaged(ValueError):
    """A pickle that ends early or contradicts itself."""


@dataclass(frozen=True)
class Name:
    """A module's attribute that a pickle names; it is neither imported nor called."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class DType:
    """A kind of number, such as `f4`, and the order of its bytes once the pickle has said it."""

    code: str
    order: str = "<"
    complete: bool = False

    def build(self, state: Any) -> None:
        """Take the state of a pickled dtype: (version, order, subarray, names, fields, ...)."""
        sound = isinstance(state, tuple) and 5 <= len(state) <= 9 and not self.complete
        if not sound or not (isinstance(state[1], str) and state[1] in ("<", ">", "|", "=")):
            raise Damaged("a kind of number is described in an unusual way")
        if any(part is not None for part in state[2:5]):
            raise UserError("it holds arrays of records; save one array a column")
        self.order, self.complete = state[1], True

    @property
    def numeric(self) -> bool:
        """Whether it is a kind of number that is read."""
        return NUMBER.fullmatch(self.code) is not None

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return int(self.code[1:])

    def number(self, data: Any) -> bool | int | float:
        """The one number in `data`."""
        if not self.numeric or not isinstance(data, bytes | memoryview) or len(data) != self.size:
            raise Damaged(f"a number of kind {self.code!a} does not fit its bytes")
        return struct.unpack((">" if self.order == ">" else "<") + UNITS[self.code], data)[0]

    def numpy(self) -> np.dtype:
        """The dtype of a numeric kind, whose code has been matched."""
        assert self.numeric
        return np.dtype((">" if self.order == ">" else "<") + self.code)


@dataclass(eq=False)
class Array:
    """An array as a pickle describes it. `data` is its bytes, or a list of values for objects."""

    shape: tuple[int, ...] = (0,)
    dtype: DType | None = None
    data: Any = b""
    fortran: bool = False
    axes: tuple[int, ...] | None = None

    def build(self, state: Any) -> None:
        """Take the state of a pickled array: (version, shape, dtype, Fortran order, data)."""
        if self.dtype is not None or not (isinstance(state, tuple) and len(state) == 5):
            raise Damaged("an array is built in an unusual way")
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):  # Python 2 wrote bytes as text
            data = latin1(data)
        self.fill(shape, dtype, bool(fortran) if isinstance(fortran, int) else None, data)

    def fill(self, shape: Any, dtype: Any, fortran: bool | None, data: Any) -> None:
        """Set the content; Damaged unless the bytes are as many as shape and kind need."""
        if not isinstance(dtype, DType) or fortran is None:
            raise Damaged("an array has no kind of number")
        if isinstance(shape, list):
            shape = tuple(shape)
        count = number_of(shape)
        if dtype.code == "O8":
            fits = isinstance(data, list) and len(data) == count
        elif dtype.numeric:
            fits = isinstance(data, bytes | memoryview) and len(data) == count * dtype.size
        else:  # texts, dates and other kinds, which no column needs
            fits = isinstance(data, bytes | memoryview)
        if not fits:
            raise Damaged(f"an array of shape {shape} {dtype.code!a} does not fit its data")
        self.shape, self.dtype, self.data, self.fortran = shape, dtype, data, fortran

    @property
    def numeric(self) -> bool:
        """Whether the array holds numbers."""
        return self.dtype is not None and self.dtype.numeric

    @property
    def objects(self) -> list[Any] | None:
        """The values of a one-dimensional array of Python objects; None for other arrays."""
        listed = isinstance(self.data, list) and len(self.shape) == 1
        return self.data if listed else None

    @property
    def bytes(self) -> int:
        """Size of the numbers."""
        return number_of(self.shape) * self.dtype.size if self.numeric and self.dtype else 0

    def numpy(self) -> np.ndarray:
        """The array, which shares its memory with the pickle's bytes."""
        assert self.numeric
        assert self.dtype is not None
        if not len(self.data):  # which frombuffer refuses
            return np.empty(self.shape, self.dtype.numpy())
        flat = np.frombuffer(self.data, self.dtype.numpy())
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return array if self.axes is None else array.transpose(self.axes)


@dataclass(eq=False)
class Storage:
    """The block of numbers that PyTorch's tensors are views of; `data` is None until it is read."""

    kind: str  # such as FloatStorage
    key: str
    numel: int
    data: Any = None


@dataclass(eq=False)
class Tensor:
    """A strided view of a storage; `kind` replaces the storage's kind of number if given."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return number_of(self.shape)


@dataclass(eq=False)
class NoPlainTensor:
    """A sparse, quantised or otherwise special tensor, of which nothing is read."""


class Ordered(dict):
    """An OrderedDict or a defaultdict; the attributes that a pickle gives it are dropped."""

    def build(self, state: Any) -> None:
        """Drop the state, such as the `_metadata` of a state dict."""


def number_of(shape: Any) -> int:
    """The number of elements of an array of this shape; Damaged if it is no shape."""
    sound = isinstance(shape, tuple) and len(shape) <= MOST_DIMENSIONS
    if not sound or not all(type(n) is int and 0 <= n < MOST_LENGTH for n in shape):
        raise Damaged("an array's shape is malformed")
    count = math.prod(shape)
    if math.prod(n for n in shape if n) >= MOST_LENGTH:
        raise Damaged("an array's shape is malformed")
    return count


def latin1(text: Any) -> bytes:
    """The bytes that a pickle of protocol 2 writes as text."""
    try:
        return text.encode("latin-1")
    except (UnicodeEncodeError, AttributeError) as error:
        raise Damaged("bytes are written as another text") from error
