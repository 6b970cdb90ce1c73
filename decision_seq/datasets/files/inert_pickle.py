"""A pickle machine that imports and calls nothing: it reads a pickle as data.

A pickle is a program for the machine of Python's `pickle` module. This machine knows the same
opcodes, but a name is a `Name`, a call is one of the few of `pickle_names` and gives an inert value
of `stand_ins`, and no other object is ever built. Python's memory is counted before it is used.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable
from typing import Any

from decision_seq.datasets.files.pickle_machine import CONTAINER, OBJECT, Machine
from decision_seq.datasets.files.stand_ins import Damaged
from decision_seq.types import UserError

MOST_TEXT, MOST_NUMBER = 1 << 20, 64  # bytes of a quoted text, of a number


def loads(data: bytes) -> Any:
    """The value of a pickle of NumPy arrays and plain containers."""
    return run(Machine(data))


def run(machine: Machine) -> Any:
    """The value of a machine's pickle; Damaged for a malformed one, UserError for a refused one."""
    return machine.load(HANDLERS)


def _whole_number(text: str) -> int | bool:
    if text in ("00", "01"):
        return text == "01"
    try:
        return int(text.removesuffix("L"))
    except ValueError as error:
        raise Damaged("a number is malformed") from error


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Damaged("a number is malformed") from error


def _long(m: Machine, count: int) -> None:
    if count > MOST_NUMBER:
        raise Damaged("a number is longer than any that data hold")
    m.push(int.from_bytes(m.take(count), "little", signed=True))


def _quoted(m: Machine) -> None:
    """The text that Python 2 wrote in quotes."""
    text = m.line(MOST_TEXT)
    m.spend(64 * len(text))  # what its parsing needs
    try:
        value = ast.literal_eval("b" + text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise Damaged("a text is malformed") from error
    if not isinstance(value, bytes):
        raise Damaged("a text is malformed")
    m.text(value, "latin-1")


def _tuple(m: Machine, count: int) -> None:
    if len(m.stack) < count:
        raise Damaged("its stack is empty")
    items = m.stack[-count:]
    del m.stack[-count:]
    m.collect(tuple, items)


def _mark(m: Machine) -> None:
    m.spend(CONTAINER)
    m.marked.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.items()


def _list(m: Machine) -> None:
    items = m.items()
    m.collect(list, items)


def _frozen(m: Machine) -> None:
    items = m.items()
    m.collect(tuple, items)


def _dict(m: Machine) -> None:
    items = m.items()
    m.collect(dict, [])
    m.update(items)


def _updates(m: Machine) -> None:
    items = m.items()
    m.update(items)


def _appends(m: Machine) -> None:
    items = m.items()
    m.append(items)


def _one_entry(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.update([key, value])


def _stack_name(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _persistent(m: Machine) -> None:
    if m.persistent is None:
        raise UserError("it is a part of another file, which a pickle of data is not; not read")
    m.spend(OBJECT)
    m.push(m.persistent(m.pop()))


def _protocol(m: Machine) -> None:
    if m.count(1) > 5:
        raise Damaged("its protocol is unknown")


def _unpacked(form: str) -> Callable[[Machine], None]:
    unit = struct.Struct(form)

    def handler(m: Machine) -> None:
        (value,) = unit.unpack(m.take(unit.size))
        m.stack.append(value)

    return handler


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


Handler = Callable[[Machine], Any]
_BY_CODE: dict[bytes, Handler] = {
    b"\x80": _protocol,
    b"\x95": lambda m: m.take(8),  # the length of a frame
    b"(": _mark,
    b"0": _pop,
    b"1": lambda m: m.items(),
    b"2": lambda m: m.push(m.top()),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": lambda m: m.push(_whole_number(m.line())),
    b"L": lambda m: m.push(_whole_number(m.line())),
    b"F": lambda m: m.push(_real(m.line())),
    b"J": _unpacked("<i"),
    b"K": _unpacked("<B"),
    b"M": _unpacked("<H"),
    b"G": _unpacked(">d"),
    b"\x8a": lambda m: _long(m, m.count(1)),
    b"\x8b": lambda m: _long(m, m.count(4)),
    b"S": _quoted,
    b"T": lambda m: m.text(m.take(m.count(4)), "latin-1"),
    b"U": lambda m: m.text(m.take(m.count(1)), "latin-1"),
    b"V": lambda m: m.text(m.line(len(m.data)).encode("latin-1"), "raw-unicode-escape"),
    b"X": lambda m: m.text(m.take(m.count(4))),
    b"\x8c": lambda m: m.text(m.take(m.count(1))),
    b"\x8d": lambda m: m.text(m.take(m.count(8))),
    b"B": lambda m: m.content(m.take(m.count(4))),
    b"C": lambda m: m.content(m.take(m.count(1))),
    b"\x8e": lambda m: m.content(m.take(m.count(8))),
    b"\x96": lambda m: m.content(m.take(m.count(8))),
    b"]": lambda m: m.collect(list, []),
    b"a": lambda m: m.append([m.pop()]),
    b"e": _appends,
    b"l": _list,
    b")": lambda m: m.push(()),
    b"t": _frozen,
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
    b"}": lambda m: m.collect(dict, []),
    b"d": _dict,
    b"s": _one_entry,
    b"u": _updates,
    b"\x8f": lambda m: m.collect(list, []),  # a set, which is read as a list
    b"\x90": _appends,
    b"\x91": _frozen,
    b"p": lambda m: m.remember(_whole_number(m.line())),
    b"q": lambda m: m.remember(m.count(1)),
    b"r": lambda m: m.remember(m.count(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(_whole_number(m.line())),
    b"h": lambda m: m.recall(m.count(1)),
    b"j": lambda m: m.recall(m.count(4)),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": _stack_name,
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"Q": _persistent,
    **dict.fromkeys((b"i", b"o", b"\x81", b"\x92", b"\x82", b"\x83", b"\x84"), Machine.refuse),
}
HANDLERS: dict[int, Handler] = {code[0]: handler for code, handler in _BY_CODE.items()}
