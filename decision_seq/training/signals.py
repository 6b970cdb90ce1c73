"""Pre-emption: on a signal the run finishes its current update, saves and stops."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from decision_seq.machine.signals import STOPPING, is_ignored

Result = TypeVar("Result")


class Interrupted(Exception):
    """Raised after a signal; the run has been saved and can be resumed.

    number: the signal that this process received; SIGTERM where only another rank received one.
    """

    def __init__(self, number: int | None, path: Path) -> None:
        super().__init__(f"saved {path}")
        self.number, self.path = number or int(signal.SIGTERM), path

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows after its stop button, without a traceback through the package."""
        run = str(self.path.parent.parent)
        return [f"Interrupted: {self}; go on with ds.train(config, {run!r}, resume='must')"]


class _Now(BaseException):
    """Raised by the signal handler where waiting for the next update would take too long.

    It is a BaseException because a simulator may catch `Exception`.
    """


class Signals:
    """Records the first signal and ignores later ones (a launcher sends Ctrl-C a second time)."""

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
        """Context in which the signals are only recorded."""
        former = {
            number: signal.signal(number, self._receive)
            for number in STOPPING
            if number == signal.SIGINT or not is_ignored(number)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def interruptible(self, act: Callable[[], Result]) -> Result | None:
        """Return `act()`, or None where the first signal interrupts it; see `number`."""
        try:
            self._immediately = True
            try:
                return act() if self.number is None else None
            finally:
                self._immediately = False
        except _Now:
            return None
