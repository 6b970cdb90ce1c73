"""Pre-emption: a signal ends the run after the update at hand, saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

# What schedulers send before they take a machine away, and Ctrl-C.
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal came; the run has been saved and can be resumed.

    number: the signal, where this process has received it, else SIGTERM: another rank has.
    """

    def __init__(self, number: int | None, path: Path) -> None:
        super().__init__(f"saved {path}")
        self.number, self.path = number or int(signal.SIGTERM), path


class _Now(BaseException):
    """Raised by the handler itself, where waiting for the next update would take too long.

    No Exception: a simulator may catch those.
    """


class Signals:
    """Remembers the first signal; later ones change nothing (a launcher passes Ctrl-C on again)."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._immediately = False

    def _receive(self, number: int, _: Any) -> None:
        first = self.number is None
        self.number = self.number or number
        if self._immediately and first:
            raise _Now

    @contextmanager
    def caught(self) -> Iterator[None]:
        """While this lasts, the signals do nothing but be remembered."""
        former = {number: signal.signal(number, self._receive) for number in NUMBERS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def interruptible(self, act: Callable[[], Result]) -> Result | None:
        """`act()`, ended by the first signal: then None, and `number` says which."""
        try:
            self._immediately = True
            try:
                return act() if self.number is None else None
            finally:
                self._immediately = False
        except _Now:
            return None
