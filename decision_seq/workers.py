"""Worker processes of one thread each, which live no longer than who started them."""

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

# Products this small gain nothing from threads, which would fight over the cores.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Started afresh, not forked: torch and MuJoCo hold threads that a fork would leave locked.
SPAWN = multiprocessing.get_context("spawn")
SIGNAL_SECONDS = 0.2


def granted_cores() -> int:
    """Those that this process may use: a scheduler often grants fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Those that this process is to use: where OMP_NUM_THREADS asks for fewer, so many."""
    granted, asked = granted_cores(), os.environ.get("OMP_NUM_THREADS", "")
    return min(granted, int(asked)) if asked.isdecimal() and int(asked) else granted


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start meanwhile compute with one thread."""
    former = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """For jobs that ask one another nothing."""
    with _one_thread_each():
        pool = ProcessPoolExecutor(workers, mp_context=SPAWN, initializer=_die_with_parent)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """A worker would otherwise wait for ever for the next job of a process that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Processes that start meanwhile never see a signal that a terminal or SLURM sends to all.

    Who started them sees it, and ends them; here it is only put off until the start is done.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


KILLED = (
    "a helping process was killed (out of memory?); ask for fewer by --workers 1 (train:"
    " --evaluation.workers 1)"
)


class Counters:
    """Numbers that processes count up together: `take(i)` gives each of 0, 1, 2, ... once."""

    def __init__(self, count: int) -> None:
        with _undisturbed():  # it may start multiprocessing's resource tracker
            self.values = SPAWN.Array("q", count)

    def take(self, index: int) -> int:
        with self.values.get_lock():
            taken = self.values[index]
            self.values[index] = taken + 1
            return taken


class Helpers:
    """Processes that help this one: each runs `produce(shared, *arguments)`, an iterator.

    produce: a function of a module, so that a process started afresh finds it.
    """

    def __init__(
        self, count: int, produce: Callable[..., Iterator[Any]], shared: Any, *arguments: Any
    ) -> None:
        # By our own pickle: multiprocessing's would move tensors into shared files.
        payload = pickle.dumps((produce, arguments))
        self.processes: list[Any] = []
        self.connections: list[Connection] = []
        self.shared = shared  # its lock must outlive the start of the last process
        try:
            with _one_thread_each(), _undisturbed():
                for _ in range(count):
                    self._start(payload)
        except BaseException:  # Ctrl-C, put off until here
            self.__exit__()
            raise

    def _start(self, payload: bytes) -> None:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_help, args=(theirs, self.shared), daemon=True)
        process.start()
        self.processes.append(process)
        self.connections.append(ours)
        theirs.close()
        try:  # not with the start, which a signal should not find half done
            ours.send_bytes(payload)
        except BrokenPipeError as error:
            raise UserError(KILLED) from error

    def produced(self, wait: bool) -> Iterator[Any]:
        """What has come from them; with `wait` until all have finished.

        RuntimeError or UserError where one of them failed or was killed.
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
            time.sleep(SIGNAL_SECONDS)  # a SIGTERM to the whole job is on its way here too
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
    _die_with_parent()
    try:
        produce, arguments = pickle.loads(connection.recv_bytes())
        for value in produce(shared, *arguments):
            connection.send(("value", value))
        connection.send(("finished", None))
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(f"in a helping process:\n{traceback.format_exc()}")
        connection.send(("failed", error))
