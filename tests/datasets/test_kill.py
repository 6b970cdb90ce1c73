"""Test that a killed collection leaves no worker process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.waiting import LIMIT, until


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    command = ["data", "collect", "hopper-random", "--steps", "3000000", "--workers", "2"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "decision_seq", *command, "--output", str(tmp_path / "store")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children = psutil.Process(parent.pid).children
    until(lambda: len(children(recursive=True)) >= 3, parent)  # two and Python's resource tracker
    workers = children(recursive=True)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=LIMIT)
    assert not alive, [process.cmdline() for process in alive]
    assert len(gone) == len(workers)
