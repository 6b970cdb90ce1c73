"""Waiting for events. No test judges by how long something takes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.ranks import LIMIT, Started

POLL = 0.005


def until(
    holds: Callable[[], bool],
    process: subprocess.Popen | Started | None = None,
    said: Callable[[], str] = str,
) -> None:
    """Return once `holds()` is true; fail if `process` ends first. said: text for the failure."""
    give_up = time.monotonic() + LIMIT
    while not holds():
        if process is not None and process.poll() is not None:
            assert holds(), f"the process ended too soon\n{said()}"
            return
        if time.monotonic() > give_up:
            if process is not None:
                process.kill()
            raise AssertionError(f"nothing came of it\n{said()}")
        time.sleep(POLL)


def logged(run: Path) -> int:
    """The number of updates in the run's log so far."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def logging_anew(run: Path) -> Callable[[], bool]:
    """Function that tells whether a launch after this call has begun the run's log again."""
    path = run / "metrics.jsonl"
    former = path.stat().st_ino if path.exists() else None
    return lambda: path.exists() and path.stat().st_ino != former


# Trains; HOLD="N:PATH" halts it before update N + 1 until there is a file PATH.
HELD = """
import os, time
from decision_seq.training.update import Update

update = Update.__call__
at, _, go = os.environ["HOLD"].partition(":")

def held(self, step, *more):
    while step == int(at) and not os.path.exists(go):
        time.sleep(0.005)
    return update(self, step, *more)

Update.__call__ = held
"""


def held(arguments: list[str], said: Path, at: int, go: Path, **env: str) -> Started:
    """Start a training command that halts once `at` updates are logged, until `go` exists.

    said: file for what it says; arguments: begin with `python -m decision_seq`.
    """
    process = Started(arguments[3:], said, HELD, **env, HOLD=f"{at}:{go}")
    run = Path(arguments[arguments.index("--output") + 1])
    until(lambda: logged(run) >= at, process)
    return process
