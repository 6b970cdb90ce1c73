"""Worker processes of one thread each, which end when their parent process ends."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
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
    """Make processes that are started in this context compute with one thread."""
    former = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes for independent jobs."""
    with _one_thread_each():
        pool = ProcessPoolExecutor(workers, mp_context=SPAWN, initializer=_exit_with_parent)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


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
    """Make processes that are started in this context block SIGINT and SIGUSR1.

    A terminal or SLURM sends these signals to all processes. The parent handles them and ends its
    workers; in the parent they are only delayed until the start is done.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


KILLED = (
    "a worker process was killed (out of memory?); ask for fewer by --workers 1 (train:"
    " --evaluation.workers 1)"
)


class Counters:
    """Counters shared by processes: `take(i)` returns each of 0, 1, 2, ... once."""

    def __init__(self, count: int) -> None:
        with _signals_blocked():  # it may start multiprocessing's resource tracker
            self.values = SPAWN.Array("q", count)

    def take(self, index: int) -> int:
        with self.values.get_lock():
            taken = self.values[index]
            self.values[index] = taken + 1
            return taken


class Helpers:
    """Processes that compute for this one: each iterates over `produce(shared, *arguments)`.

    produce: a module-level function, so that a spawned process can import it.
    """

    def __init__(
        self, count: int, produce: Callable[..., Iterator[Any]], shared: Any, *arguments: Any
    ) -> None:
        # Pickled here, because multiprocessing's pickle would move tensors into shared files.
        payload = pickle.dumps((produce, arguments))
        self.processes: list[Any] = []
        self.connections: list[Connection] = []
        self.shared = shared  # its lock must outlive the start of the last process
        try:
            with _one_thread_each(), _signals_blocked():
                for _ in range(count):
                    self._start(payload)
        except BaseException:  # Ctrl-C, delayed until here
            self.__exit__()
            raise

    def _start(self, payload: bytes) -> None:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_help, args=(theirs, self.shared), daemon=True)
        process.start()
        self.processes.append(process)
        self.connections.append(ours)
        theirs.close()
        try:  # outside the start, which a signal must not interrupt
            ours.send_bytes(payload)
        except BrokenPipeError as error:
            raise UserError(KILLED) from error

    def produced(self, wait: bool) -> Iterator[Any]:
        """Iterate over the values received so far; with `wait`, until all processes have finished.

        RuntimeError or UserError where a process failed or was killed.
        """
        while self.connections:
            ready = wait_for_any(self.connections, None if wait else 0)
            if not ready:
                return
            for connection in ready:
                assert isinstance(connection, Connection)
                yield from self._received(connection)

    def _received(self, connection: Connection) -> Iterator[Any]:
        try:
            kind, value = connection.recv()
        except EOFError:
            time.sleep(SIGNAL_SECONDS)  # a SIGTERM to the whole job arrives here too
            raise UserError(KILLED) from None
        if kind == "failed":
            raise value
        if kind == "finished":
            self.connections.remove(connection)
        else:
            yield value

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.terminate()
            process.join()


def _help(connection: Connection, shared: Any) -> None:
    _exit_with_parent()
    try:
        produce, arguments = pickle.loads(connection.recv_bytes())
        for value in produce(shared, *arguments):
            connection.send(("value", value))
        connection.send(("finished", None))
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        connection.send(("failed", error))
