"""The machine of `inert_pickle`: its stack, its memo, and what its opcodes do with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from decision_seq.datasets.files.pickle_names import NUMPY, Call, unknown
from decision_seq.datasets.files.stand_ins import Array, Damaged, DType, Name, Ordered
from decision_seq.types import UserError

# Bytes of Python's memory that a pickle may need beside the file's own, and what is counted of it.
MOST_MEMORY = 640 << 20
STEP, CONTAINER, MEMO, OBJECT = 32, 96, 96, 320
SMALL = 256  # bytes up to which content is copied
STOP = ord(".")  # the opcode that ends a pickle


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

    def load(self, handlers: Mapping[int, Callable[[Machine], Any]]) -> Any:
        """The value; Damaged for a malformed pickle, UserError for a refused one.

        handlers: the opcodes' meanings.
        """
        data = self.data
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
