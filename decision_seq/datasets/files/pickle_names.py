"""The names that pickled data may hold, and the inert value that each call of one gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from decision_seq.datasets.files.stand_ins import (
    Array,
    Damaged,
    DType,
    Name,
    NoPlainTensor,
    Ordered,
    Storage,
    Tensor,
    latin1,
)
from decision_seq.datasets.step_columns import shown
from decision_seq.types import UserError

Call = Callable[..., Any]  # the arguments in the pickle -> an inert value


def _never(*_: Any) -> Any:
    raise Damaged("a type is called, which no array needs")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if kind != Name("numpy", "ndarray") or shape != (0,):
        raise Damaged("an array is built in an unusual way")
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    if order not in ("C", "F", "A", "K"):
        raise Damaged("an array's order is malformed")
    array = Array()
    array.fill(shape, dtype, order == "F", data)
    if order == "K" and axes is not None:
        if not isinstance(axes, tuple) or sorted(axes) != list(range(len(array.shape))):
            raise Damaged("an array's axes are malformed")
        array.axes = axes
    return array


def _scalar(dtype: Any, data: Any) -> bool | int | float:
    if not isinstance(dtype, DType):
        raise Damaged("a number has no kind")
    return dtype.number(latin1(data) if isinstance(data, str) else data)


def _dtype(code: Any, align: Any = False, copy: Any = True) -> DType:
    if isinstance(code, DType):
        return DType(code.code)
    if not isinstance(code, str) or not 2 <= len(code) <= 20 or not code.isascii():
        raise Damaged("a kind of number is described in an unusual way")
    return DType(code)


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Damaged("bytes are written as another text")
    return latin1(text)


def _bytes(*content: Any) -> bytes:
    if content:
        raise Damaged("bytes are written in an unusual way")
    return b""


def _ordered(items: Any = ()) -> Ordered:
    if items != () and items != []:
        raise Damaged("a dict is built in an unusual way")
    return Ordered()


def _default(factory: Any = None) -> Ordered:
    return Ordered()


NUMPY: dict[tuple[str, str], Call] = {
    ("numpy", "ndarray"): _never,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,  # how protocol 2 writes bytes
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _default,
}
for package in ("numpy.core", "numpy._core"):
    NUMPY[f"{package}.multiarray", "_reconstruct"] = _reconstruct
    NUMPY[f"{package}.multiarray", "scalar"] = _scalar
    NUMPY[f"{package}.numeric", "_frombuffer"] = _from_buffer
for package in ("builtins", "__builtin__"):
    NUMPY[package, "bytes"] = _bytes
    for kind in ("list", "dict", "int", "float"):  # what a defaultdict makes
        NUMPY[package, kind] = _never


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> Tensor | NoPlainTensor:
    sound = isinstance(storage, Storage) and type(offset) is int and offset >= 0
    if not sound or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise Damaged("a tensor is built in an unusual way")
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in strides):
        raise Damaged("a tensor's strides are malformed")
    kind = rest[2] if len(rest) > 2 and isinstance(rest[2], Name) else None
    marks = next((value for value in rest[2:] if isinstance(value, dict)), {})
    if marks.get("neg") or marks.get("conj"):  # the stored numbers are not the tensor's
        return NoPlainTensor()
    tensor = Tensor(storage, offset, shape, strides, kind.name if kind else None)
    tensor.numel  # noqa: B018 (it checks the shape)
    return tensor


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, Tensor | NoPlainTensor):
        raise Damaged("a parameter is no tensor")
    return tensor


def _no_plain(*_: Any) -> NoPlainTensor:
    return NoPlainTensor()


def _size(shape: Any = ()) -> Any:
    return tuple(shape) if isinstance(shape, list) else shape


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a class of its own, of which the tensor is read."""
    if function not in REBUILT or type(arguments) is not tuple:
        raise Damaged("a tensor is built in an unusual way")
    return TORCH[function.module, function.name](*arguments)


def _nothing(*_: Any) -> None:
    """A value that no tensor needs."""


REBUILT = [Name("torch._utils", f"_rebuild_{kind}") for kind in ("tensor_v2", "parameter")]
TORCH: dict[tuple[str, str], Call] = {
    **NUMPY,
    ("collections", "Counter"): _default,
    ("builtins", "set"): _nothing,
    ("builtins", "complex"): _nothing,
    ("builtins", "bytearray"): _nothing,
    ("torch", "Size"): _size,
    ("torch", "Tensor"): _never,
    ("torch", "device"): _nothing,
    ("torch.nn.parameter", "Parameter"): _never,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_sparse_tensor"): _no_plain,
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _no_plain,
    ("torch._utils", "_rebuild_nested_tensor"): _no_plain,
    ("torch._utils", "_rebuild_qtensor"): _no_plain,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _no_plain,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _no_plain,
    ("torch.serialization", "_get_layout"): _nothing,
}
# PyTorch's name of a storage -> the code of its numbers.
STORAGES = {
    "BoolStorage": "b1",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "BFloat16Storage": "bfloat2",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
    "UntypedStorage": "u1",
}
_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"
    " complex64 complex128 float8_e5m2 float8_e4m3fn float8_e5m2fnuz float8_e4m3fnuz"
)
TORCH.update(dict.fromkeys((("torch", kind) for kind in (*STORAGES, *_DTYPES.split())), _never))
for kind in ("UntypedStorage", "TypedStorage"):
    TORCH["torch.storage", kind] = _never


def item_size(storage: str) -> int:
    """Bytes of one number in a storage of this name."""
    return int(STORAGES[storage].strip("abcdefghijklmnopqrstuvwxyz"))


# Beginning of a module's name -> what its objects are, and how to save them so that they are read.
WAYS_OUT = {
    "torch": (
        "PyTorch tensors",
        "save arrays: pickle.dump([{k: v.numpy() for k, v in t.items()} for t in trajectories], f)",
    ),
    "pandas": (
        "a pandas table",
        "save its columns: numpy.savez('x.npz', observations=numpy.stack(df['obs']),"
        " actions=df['action'], rewards=df['reward'], terminals=df['done'])",
    ),
    "d3rlpy": (
        "d3rlpy's dataset",
        "save its episodes: pickle.dump([dict(observations=e.observations, actions=e.actions,"
        " rewards=e.rewards, terminals=...) for e in dataset.episodes], f)",
    ),
    "tensordict": ("a TensorDict", "save its columns as arrays: numpy.savez('x.npz', ...)"),
    "jax": ("JAX arrays", "save them as numpy.asarray(value)"),
}


def unknown(module: str, name: str) -> UserError:
    """The error for a name that data do not need."""
    what, way_out = WAYS_OUT.get(module.partition(".")[0], (None, None))
    if what:
        return UserError(f"it holds {what}, which a pickle keeps as a program; {way_out}")
    return UserError(
        f"it names {shown(module)}.{shown(name)}, which data do not need: such a pickle may run any"
        " program, so it is not read"
    )
