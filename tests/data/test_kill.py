"""Test that a killed collection leaves no worker process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    command = ["data", "collect", "hopper-random", "--steps", "3000000", "--workers", "2"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "decision_seq", *command, "--output", str(tmp_path / "store")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(workers) < 3 and time.monotonic() < deadline:  # two and Python's resource tracker
        workers = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.1)
    assert len(workers) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    assert len(gone) == len(workers)
