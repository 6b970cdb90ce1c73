"""Standard streams whose failure does not end the work: a full disk, a reader that has gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class Lenient:
    """A text stream that discards output once its file can no longer be written."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with self._kept():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._kept():
            self.stream.flush()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream is closed
            # The text in the buffers would fail again at every write, and when Python ends.
            with contextlib.suppress(OSError, ValueError):
                _discard(self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _discard(number: int) -> None:
    """Connect a file descriptor to nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)


def settle_stdout() -> None:
    """Write what standard output has buffered, or discard it where that fails.

    Otherwise it would fail once more when Python ends, which changes the exit code.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            _discard(sys.stdout.fileno())


_results: list[Any] = []  # standard output, while `results_alone` keeps it for results


def results() -> Any:
    """The stream for a command's results: standard output."""
    return _results[-1] if _results else sys.stdout


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Context in which all that is printed goes to standard error, except to `results()`.

    An environment may print anything, which would spoil JSON.
    """
    former = sys.stdout
    if former is None:
        yield
        return
    _results.append(former)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = former
        _results.pop()


@contextlib.contextmanager
def lenient_errors() -> Iterator[None]:
    """Context in which a failure to write messages to standard error is ignored."""
    for number in range(3):  # a closed one would be given to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            # Also for programs that are started: they may fail without standard streams.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    former = sys.stderr
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks "±" shows "?"
    # Without standard error, `print` would write messages to standard output.
    sys.stderr = Lenient(io.StringIO() if former is None else former)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = former
