"""Waiting for events. No test judges by how long something takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIMIT = 1800.0  # seconds: only a hang takes so long, however busy the machine is
POLL = 0.005


def until(
    holds: Callable[[], bool],
    process: subprocess.Popen | None = None,
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


# Trains; HOLD="N:PATH" halts it before update N + 1 until there is a file PATH.
HELD = """
import os, sys, time
from decision_seq.train.update import Update
from decision_seq.cli import main

update = Update.__call__
at, _, go = os.environ["HOLD"].partition(":")

def held(self, step, *more):
    while step == int(at) and not os.path.exists(go):
        time.sleep(0.005)
    return update(self, step, *more)

Update.__call__ = held
sys.exit(main(sys.argv[1:]))
"""


def held(arguments: list[str], script: Path, at: int, go: Path, **env: str) -> subprocess.Popen:
    """Start a training command that halts once `at` updates are logged, until `go` exists.

    script: file to write; arguments: begin with `python -m decision_seq`.
    """
    script.write_text(HELD)
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments[3:]],
        env={**os.environ, **env, "HOLD": f"{at}:{go}"},
        stderr=subprocess.DEVNULL,
    )
    run = Path(arguments[arguments.index("--output") + 1])
    until(lambda: logged(run) >= at, process)
    return process
