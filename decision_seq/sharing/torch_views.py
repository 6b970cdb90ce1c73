"""PyTorch's tensors from the inert views of a file of `torch.save`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from decision_seq.datasets.files import stand_ins
from decision_seq.datasets.files.pickle_names import item_size
from decision_seq.datasets.files.stand_ins import Array, Damaged, NoPlainTensor, Storage
from decision_seq.datasets.files.values import Values, plain
from decision_seq.types import UserError

INERT = (stand_ins.Tensor, NoPlainTensor)
DTYPES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# How many tensors may share a stored number, as tied weights do; each becomes an array of its own.
MOST_SHARING, LEAST = 4, 64 << 20


def require_bounded(values: Iterable[Any]) -> None:
    """Raise UserError if the tensors together are far larger than what the file stores."""
    views = [value for value in values if isinstance(value, stand_ins.Tensor)]
    storages: dict[int, Storage] = {id(view.storage): view.storage for view in views}
    stored = sum(len(storage.data) for storage in storages.values())
    size = sum(view.numel * item_size(view.storage.kind) for view in views)
    if size > max(LEAST, MOST_SHARING * stored):
        raise UserError(
            f"its tensors are views of the same numbers: {stored / 1e6:.1f} MB would become"
            f" {size / 1e9:.1f} GB, no plain array holds as many; save the state_dict() of a model"
        )


def tensors(views: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of views by name; UserError unless the file stores each of their numbers.

    Sparse, quantised, expanded and 8-bit floating-point tensors are refused.
    """
    require_bounded(views.values())
    copies: dict[int, bytearray] = {}  # of the storages, which tensors may share
    return {name: _tensor(view, name, copies) for name, view in views.items()}


def _tensor(view: Any, name: str, copies: dict[int, bytearray]) -> Tensor:
    kind = None if isinstance(view, NoPlainTensor) or view.kind else DTYPES.get(view.storage.kind)
    try:
        sound = kind is not None and plain(view)
    except Damaged as error:
        raise UserError(f"{name} is damaged: {error}") from error
    if kind is None or not sound:
        raise UserError(f"{name} is no plain array of numbers; save a dense float32")
    if view.numel == 0:
        return torch.empty(view.shape, dtype=kind)
    storage = view.storage
    if id(storage) not in copies:
        copies[id(storage)] = bytearray(storage.data)
    flat = torch.frombuffer(copies[id(storage)], dtype=kind)
    return flat.as_strided(view.shape, view.strides, view.offset)


def numbers(value: Any, name: str) -> Any:
    """An array or a tensor as NumPy's array; other values unchanged."""
    if isinstance(value, Array | stand_ins.Tensor | list | tuple):
        array = Values(0).array(value, name)
        return value if array is None else array.copy()
    return value
