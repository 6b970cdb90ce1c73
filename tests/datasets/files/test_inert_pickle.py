"""Tests of the pickle machine: it reads what NumPy wrote, and calls and allocates nothing else."""

import collections
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decision_seq.datasets.files import inert_pickle, pickle_machine
from decision_seq.datasets.files.stand_ins import Array, Damaged
from decision_seq.types import UserError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float64 in Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(6, dtype=">f8").reshape(3, 2),
    "big-endian integers": np.arange(5, dtype=">i2"),
    "bool": np.array([True, False]),
    "int64": np.arange(-3, 3),
    "uint8 image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "float16": np.arange(3, dtype=np.float16),
    "a view with steps": np.arange(20.0).reshape(4, 5)[::2, ::2],
    "transposed in three dimensions": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    "empty": np.empty((0, 3)),
    "no dimension": np.array(3.5),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_numpys_pickles_are_read(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    content = pickle.dumps({"a": array, "again": [array, array]}, protocol)
    for package in (b"numpy._core", b"numpy.core"):
        changed = content.replace(b"numpy._core", package)
        if protocol >= 4 and package != b"numpy._core":
            continue  # a text's length is stored before it
        found = inert_pickle.loads(changed)["a"].numpy()
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_what_they_were(protocol: int) -> None:
    value: dict[str, Any] = {
        "numbers": [0, -1, 255, 65_536, 2**40, -(2**63), 2.5, float("inf"), True, False, None],
        "texts": ["", "häufig", "\u20ac", "line\nend"],
        "nested": [[1, 2], (3, (4,)), {"a": {}}, []],
        "many": list(range(3_000)),
        "bytes": [b"", b"x" * 300],
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.float64(2.25)],
    }
    found = inert_pickle.loads(pickle.dumps(value, protocol))
    found["bytes"] = [bytes(part) for part in found["bytes"]]
    assert found == {**value, "scalars": [1.5, -3, True, 2.25]}


def test_dicts_of_other_classes_are_dicts() -> None:
    made = collections.defaultdict(list, a=[1])
    value = {"default": made, "ordered": collections.OrderedDict(b=2)}
    assert inert_pickle.loads(pickle.dumps(value)) == {"default": {"a": [1]}, "ordered": {"b": 2}}


def test_an_array_shares_the_files_memory() -> None:
    content = pickle.dumps(np.zeros(1000))
    found = inert_pickle.loads(content)
    assert isinstance(found, Array)
    assert np.shares_memory(found.numpy(), np.frombuffer(content, np.uint8))


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


DTYPE = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
EMPTY = name("numpy._core.multiarray", "_reconstruct") + name("numpy", "ndarray")
EMPTY += b"K\x00\x85C\x01b\x87R"
SCALAR, BUFFER = (
    name("numpy._core.multiarray", "scalar"),
    name("numpy._core.numeric", "_frombuffer"),
)
STATE = b"(K\x03" + text("<") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00t"
SYSTEM = b"cposix\nsystem\n" + text("touch ran") + b"\x85R"

# Python objects by their code, with a state that denies it: NumPy takes numbers for addresses.
DENIED = name("numpy", "dtype") + text("O8") + b"\x89\x88\x87R(K\x03" + text("|") + b"NNN"
DENIED += b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
ADDRESS = b"C\x08" + b"A" * 8
# Each of these three ends the unpickling by NumPy's own functions by signal 11.
CRASHES = {
    "a number at an address": SCALAR + DENIED + ADDRESS + b"\x86R",
    "an array from a buffer of addresses": BUFFER + b"(" + ADDRESS + DENIED + b"K\x01\x85"
    + text("C") + b"tR",
    "an array whose state is addresses": EMPTY + b"(K\x01K\x01\x85" + DENIED + b"\x89" + ADDRESS
    + b"tb",
}  # fmt: skip
HOSTILE = {
    **CRASHES,
    "a dtype of objects over bytes": SCALAR + DTYPE
    + b"(K\x03" + text("|") + b"NNN" + b"J\x00\x10\x00\x00" * 2 + b"K?tbC\x04ABCD\x86R",
    "an array over another's memory": name("numpy", "ndarray")
    + b"(K\x01\x85" + text("O8") + b"C\x08\x41\x41\x41\x41\x41\x41\x41\x41tR",
    "a petabyte": name("numpy", "ndarray") + b"\x8a\x07\x00\x00\x00\x00\x00\x00\x04\x85\x85R",
    "a state of too few bytes": EMPTY + b"(K\x01K\x09\x85" + DTYPE + STATE + b"b\x89"
    + ADDRESS + b"tb",
    "a negative shape": EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x00tb",
    "an array built twice": (EMPTY + b"(K\x01K\x00\x85" + DTYPE + b"\x89C\x00tb")
    + b"(K\x01K\x00\x85" + DTYPE + b"\x89C\x00tb",
    "a dtype built twice": DTYPE + STATE + b"b" + STATE + b"b",
    "records": DTYPE + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + b"K\x08K\x01K\x10tb",
    "a subarray": DTYPE + b"(K\x03" + text("|") + DTYPE + b"K\x02\x86NN" + b"K\x10K\x01K\x10tb",
    "a list with attributes": b"]}" + text("x") + b"K\x01sb",
    "a type with attributes": name("numpy", "ndarray") + b"}" + text("x") + b"K\x01sb",
    "slots": name("_codecs", "encode") + b"N}" + text("__defaults__") + b"K\x01\x85s\x86b",
    "a program": SYSTEM,
    "a program by its name alone": name("builtins", "eval"),
    "a name of several lines": name("numpy\n", "nd\x1b[2Jarray"),
    "an attribute of an attribute": name("numpy", "ndarray.tofile"),
    "an instance": b"(ios\nsystem\n",
    "an object": b"(" + name("numpy", "dtype") + b"o",
    "a new object": name("numpy", "ndarray") + b"K\x01\x85\x85\x81",
    "a new object with keywords": name("numpy", "ndarray") + b")}\x92",
    "an extension": b"\x82\x01",
    "another file": text("x") + b"Q",
    "a buffer from outside": b"\x97",
    "a text for a function": text("os.system") + text("touch ran") + b"\x85R",
    "a far memo": b"]r" + struct.pack("<I", 2**31) + b"j" + struct.pack("<I", 5),
    "a declared length": b"\x8e" + struct.pack("<Q", 2**62),
    "a number of gigabytes": b"\x8b" + struct.pack("<I", 2**31 - 1),
    "digits": b"I" + b"9" * 6_000 + b"\n",
    "an empty stack": b"0",
    "a mark that is missing": b"t",
    "tuples for keys": b"}" + b")" + b"\x85" * 3_000 + b"K\x01s",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_data_is_refused(
    content: bytes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, Damaged)) as caught:
        inert_pickle.loads(b"\x80\x04" + content + b".")
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


AMPLIFIED: dict[str, Callable[[], bytes]] = {
    "dicts": lambda: b"(" + b"}" * 100_000 + b"l.",
    "stored again and again": lambda: b"]" + b"\x94" * 100_000 + b".",
    "decoded again and again": lambda: (
        b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x000"
        + (name("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R") * 10_000 + b"."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AMPLIFIED)
def test_memory_is_counted_before_it_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_MEMORY", 8 << 20)
    with pytest.raises(UserError, match=r"save arrays \(numpy.array\)"):
        inert_pickle.loads(AMPLIFIED[name]())


def test_a_pickle_without_an_end_is_cut_short() -> None:
    whole = pickle.dumps([np.arange(9), {"a": 1.5}])
    for length in range(len(whole)):
        with pytest.raises(Damaged):
            inert_pickle.loads(whole[:length])


def test_every_opcode_is_known() -> None:
    codes = {ord(opcode.code) for opcode in pickletools.opcodes}
    assert codes - inert_pickle.HANDLERS.keys() == {pickle_machine.STOP, ord("P"), 0x97, 0x98}
