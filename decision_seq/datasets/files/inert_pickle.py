"""A pickle machine that imports and calls nothing: it reads a pickle as data.

A pickle is a program for the machine of Python's `pickle` module. This machine knows the same
opcodes, but a name is a `Name`, a call is one of the few of `pickle_names` and gives an inert value
of `stand_ins`, and no other object is ever built. Python's memory is counted before it is used.
"""

from __future__ import annotations

import ast
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from decision_seq.datasets.files.pickle_names import NUMPY, Call, unknown
from decision_seq.datasets.files.stand_ins import Array, Damaged, DType, Name, Ordered
from decision_seq.types import UserError

# Bytes of Python's memory that a pickle may need beside the file's own, and what is counted of it.
MOST_MEMORY = 640 << 20
STEP, CONTAINER, MEMO, OBJECT = 32, 96, 96, 320
MOST_TEXT, MOST_NUMBER = 1 << 20, 64  # bytes of a quoted text, of a number
SMALL = 256  # bytes up to which content is copied


class Machine:
    """One reading of the pickle that starts at `start` of `data`.

    names: the names that the pickle may hold; persistent: the meaning of a persistent id, for the
    files of PyTorch; refusal: makes the error for another name.
    """

    def __init__(
        self,
        data: bytes,
        names: Mapping[tuple[str, str], Call] = NUMPY,
        persistent: Callable[[Any], Any] | None = None,
        start: int = 0,
        refusal: Callable[[str, str], UserError] = unknown,
    ) -> None:
        self.data, self.view, self.at = data, memoryview(data), start
        self.names, self.persistent, self.refusal = names, persistent, refusal
        self.memory = MOST_MEMORY
        self.decoded = 2 * len(data) + SMALL  # bytes that may be decoded from text
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value; Damaged for a malformed pickle, UserError for a refused one."""
        data, handlers = self.data, HANDLERS
        while True:
            self.memory -= STEP
            if self.memory < 0:
                raise _too_much()
            if self.at >= len(data):
                raise Damaged("it is cut short")
            opcode = data[self.at]
            self.at += 1
            if opcode == STOP:
                return self.pop()
            handler = handlers.get(opcode)
            if handler is None:
                raise Damaged(f"opcode {opcode} is unknown")
            handler(self)

    def spend(self, amount: int) -> None:
        """Count memory; UserError when there is none left."""
        self.memory -= amount
        if self.memory < 0:
            raise _too_much()

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise Damaged("it is cut short")
        view = self.view[self.at : end]
        self.at = end
        return view

    def count(self, width: int) -> int:
        """The next unsigned number."""
        return int.from_bytes(self.take(width), "little")

    def line(self, most: int = SMALL) -> str:
        """The next line of text, without its end."""
        end = self.data.find(b"\n", self.at, self.at + most)
        if end < 0:
            raise Damaged("a line has no end")
        text = self.data[self.at : end].decode("latin-1")
        self.at = end + 1
        return text

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top of the stack."""
        if not self.stack:
            raise Damaged("its stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        """The top of the stack, which stays."""
        if not self.stack:
            raise Damaged("its stack is empty")
        return self.stack[-1]

    def items(self) -> list[Any]:
        """The values above the last mark, which are taken with it."""
        if not self.marked:
            raise Damaged("a mark is missing")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def remember(self, index: int) -> None:
        """Store the top of the stack under a number."""
        if index not in self.memo:
            self.spend(MEMO)
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Put the value of a number on the stack."""
        if index not in self.memo:
            raise Damaged("it recalls what it has not stored")
        self.stack.append(self.memo[index])

    def text(self, view: bytes | memoryview, encoding: str = "utf-8") -> None:
        """Put a text on the stack."""
        try:
            errors = "surrogatepass" if encoding == "utf-8" else "strict"
            text = str(view, encoding, errors)
        except UnicodeDecodeError as error:
            raise Damaged("a text is malformed") from error
        self.spend(max(sys.getsizeof(text) - len(view), 0))
        self.stack.append(text)

    def content(self, view: memoryview) -> None:
        """Put bytes on the stack: a view of the file unless they are few."""
        self.spend(SMALL)
        self.stack.append(bytes(view) if len(view) <= SMALL else view)

    def name(self, module: Any, name: Any) -> None:
        """Put a name on the stack; UserError for one that data do not need."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a name is no text")
        if (module, name) not in self.names:
            raise self.refusal(module, name)
        self.spend(OBJECT)
        self.stack.append(Name(module, name))

    def call(self) -> None:
        """Replace a name and its arguments by an inert value."""
        arguments, named = self.pop(), self.pop()
        if not isinstance(named, Name) or type(arguments) is not tuple:
            raise Damaged("it calls what is no function")
        self.spend(OBJECT)
        if named.name == "encode" and arguments and isinstance(arguments[0], str):
            self.decoded -= len(arguments[0])
            if self.decoded < 0:
                raise _too_much()
        function = self.names[named.module, named.name]
        try:
            self.stack.append(function(*arguments))
        except TypeError as error:  # another number of arguments
            raise Damaged(f"{named} is called in an unusual way") from error

    def build(self) -> None:
        """Give an inert value its state; UserError for any other object."""
        state, value = self.pop(), self.top()
        if not isinstance(value, DType | Array | Ordered):
            raise UserError("it sets attributes of an object, which data do not need; not read")
        value.build(state)

    def append(self, items: list[Any]) -> None:
        """Add items to the list on top of the stack."""
        target = self.top()
        if type(target) is not list:
            raise Damaged("items are added to what is no list")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        """Add keys and values to the dict on top of the stack."""
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise Damaged("entries are added to what is no dict")
        self.spend(CONTAINER * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, bytes):
                raise UserError("a dict has keys that are no names; not read")
            target[key] = value

    def collect(self, kind: type, items: list[Any]) -> None:
        """Put a container of items on the stack."""
        self.spend(CONTAINER + 8 * len(items))
        self.stack.append(kind(items))

    def refuse(self) -> None:
        """Raise UserError for an opcode that builds an object of a class."""
        raise UserError("it builds objects of classes, which data do not need; not read")


def _too_much() -> UserError:
    return UserError(
        f"it needs more than {MOST_MEMORY >> 20} MiB for Python's objects; save arrays"
        " (numpy.array) instead of lists"
    )


def loads(data: bytes, start: int = 0) -> Any:
    """The value of a pickle of NumPy arrays and plain containers."""
    return Machine(data, start=start).load()


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
STOP = ord(".")
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
