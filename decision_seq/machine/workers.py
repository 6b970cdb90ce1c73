"""Worker processes of one thread each, which end when their parent process ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from types import ModuleType
from typing import Any

from decision_seq.types import UserError

# Matrix products this small gain nothing from threads, which would compete for the cores.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Spawned, not forked: torch and MuJoCo have threads, whose locks a fork would leave locked.
SPAWN = multiprocessing.get_context("spawn")
SIGNAL_SECONDS = 0.2


def granted_cores() -> int:
    """Number of cores that this process may use, which a scheduler may limit."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Number of cores to use: the granted ones, or OMP_NUM_THREADS if that is fewer."""
    granted, threads = granted_cores(), os.environ.get("OMP_NUM_THREADS", "")
    return min(granted, int(threads)) if threads.isdecimal() and int(threads) else granted


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Make processes that are started in this context compute with one thread.

    They do not import Python's own modules from the working directory, before they are told this
    process's path of modules.
    """
    variables = {**ONE_THREAD, "PYTHONSAFEPATH": "1"}
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep processes that are started in this context from running the user's script again.

    Python would import the script in every process, which would start processes in turn where the
    script has no `if __name__ == "__main__"`. Nothing that is defined in it can be sent to them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _exit_with_parent() -> None:
    """Exit when the parent ends; a worker would wait forever for jobs of a killed parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Make processes that are started in this context block SIGINT, SIGUSR1 and SIGHUP.

    A terminal or SLURM sends these signals to all processes. The parent handles them and ends its
    workers; in the parent they are only delayed until the start is done.
    """
    delayed = (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    former = signal.pthread_sigmask(signal.SIG_BLOCK, delayed)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


FEWER = "ask for fewer by --workers 1 (train: --evaluation.workers 1)"
KILLED = f"a worker process was killed (out of memory?); {FEWER}"
SILENCE = "DECISION_SEQ_WORKER_SECONDS"


def most_silence() -> float:
    """Seconds without a sign of life after which a worker process is given up."""
    text = os.environ.get(SILENCE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"the environment's {SILENCE} {text!r} is no number of seconds; unset it")
    return seconds


def silent() -> UserError:
    """The error for a worker process that gives no sign of life."""
    return UserError(
        f"a worker process gave no sign of life for {most_silence():g} s (is it stopped?);"
        f" {FEWER}, or allow more seconds by {SILENCE}"
    )


class Counters:
    """Counters shared by processes: `take(i)` returns each of 0, 1, 2, ... once."""

    def __init__(self, count: int) -> None:
        with _signals_blocked():  # it may start multiprocessing's resource tracker
            self.values = SPAWN.Array("q", count)

    def take(self, index: int) -> int:
        lock = self.values.get_lock()
        if not lock.acquire(timeout=most_silence()):  # held by a process that is stopped or killed
            raise silent()
        try:
            taken = self.values[index]
            self.values[index] = taken + 1
            return taken
        finally:
            lock.release()


class Workers:
    """Processes that send messages `(kind, value)`, and signs of life while they compute."""

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.connections: list[Connection] = []
        self.silence: dict[Connection, float] = {}  # seconds since the last message
        self.limit = most_silence()

    def start(self, serve: Callable[..., None], *arguments: Any) -> Connection:
        """Start a process that runs `serve(connection, *arguments)` -> our end of its pipe."""
        with _one_thread_each(), _signals_blocked(), _without_main():
            ours, theirs = SPAWN.Pipe()
            arguments = (serve, theirs, self.limit / BEATS, *arguments)
            process = SPAWN.Process(target=_alive, args=arguments, daemon=True)
            process.start()
            self.processes.append(process)
            self.connections.append(ours)
            self.silence[ours] = 0.0
            theirs.close()
            return ours

    def send(self, connection: Connection, payload: bytes) -> None:
        """Send bytes; UserError where the process is gone, or does not read them."""
        failed: list[OSError] = []

        def act() -> None:
            try:
                connection.send_bytes(payload)
            except OSError as error:
                failed.append(error)

        # On a thread, because a process that is stopped reads nothing, and a pipe holds little.
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(self.limit)
        if thread.is_alive():
            raise silent()
        if failed:
            raise UserError(KILLED) from failed[0]

    def receive(self, wait: bool) -> list[tuple[Connection, str, Any]]:
        """The messages that have come; with `wait`, at least one.

        UserError or the worker's own error where a process failed, was killed or is silent.
        """
        while self.connections:
            started = time.monotonic()
            ready = wait_for_any(self.connections, self.limit / BEATS if wait else 0)
            # If this process was itself stopped for a while, that is no silence of the workers.
            passed = min(time.monotonic() - started, self.limit / BEATS)
            for connection in self.connections:
                self.silence[connection] += passed
            received = []
            for sender in ready:
                assert isinstance(sender, Connection)
                self.silence[sender] = 0.0
                kind, value = _received(sender)
                if kind != "alive":
                    received.append((sender, kind, value))
            if received or not (wait or ready):
                return received
            if max(self.silence.values()) > self.limit:
                raise silent()
        return []

    def leave(self, connection: Connection) -> None:
        """Expect no more messages from a process."""
        self.connections.remove(connection)
        del self.silence[connection]

    def end(self) -> None:
        """Kill all processes, those that are stopped too."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


BEATS = 10  # signs of life in the longest silence that is allowed


def _received(connection: Connection) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, OSError):
        time.sleep(SIGNAL_SECONDS)  # a SIGTERM to the whole job arrives here too
        raise UserError(KILLED) from None
    if kind == "failed":
        raise value
    return kind, value


class _Outgoing:
    """A connection whose messages two threads send in turn."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()

    def send(self, kind: str, value: Any = None) -> None:
        with self.lock:
            self.connection.send((kind, value))


def _alive(
    serve: Callable[..., None], connection: Connection, pause: float, *arguments: Any
) -> None:
    """Run `serve` in a worker process, with signs of life; its error is sent."""
    _exit_with_parent()
    outgoing = _Outgoing(connection)

    def beat() -> None:
        with contextlib.suppress(OSError):  # the parent has just ended
            while True:
                time.sleep(pause)
                outgoing.send("alive")

    threading.Thread(target=beat, daemon=True).start()
    try:
        serve(connection, outgoing.send, *arguments)
    except Exception as error:
        outgoing.send("failed", _sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error with this process's traceback as a note; another one where it cannot be pickled."""
    note = f"in a worker process:\n{traceback.format_exc()}"
    try:
        error.add_note(note)
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # a constructor may raise anything
        other = RuntimeError(f"{type(error).__name__}: {error}")
        other.add_note(note)
        return other


class Helpers(Workers):
    """Processes that compute for this one: each iterates over `produce(shared, *arguments)`.

    produce: a module-level function, so that a spawned process can import it.
    """

    def __init__(
        self, count: int, produce: Callable[..., Iterator[Any]], shared: Any, *arguments: Any
    ) -> None:
        super().__init__()
        # Pickled here, because multiprocessing's pickle would move tensors into shared files.
        payload = pickle.dumps((produce, arguments))
        self.shared = shared  # its lock must outlive the start of the last process
        try:
            for _ in range(count):
                # Sent outside the start, which a signal must not interrupt.
                self.send(self.start(_help, self.shared), payload)
        except BaseException:  # Ctrl-C, delayed until here
            self.end()
            raise

    def produced(self, wait: bool) -> Iterator[Any]:
        """Iterate over the values received so far; with `wait`, until all processes have finished.

        RuntimeError or UserError where a process failed or was killed.
        """
        while received := self.receive(wait):
            for connection, kind, value in received:
                if kind == "finished":
                    self.leave(connection)
                else:
                    yield value

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def _help(connection: Connection, send: Callable[..., None], shared: Any) -> None:
    produce, arguments = pickle.loads(connection.recv_bytes())
    for value in produce(shared, *arguments):
        send("value", value)
    send("finished")
