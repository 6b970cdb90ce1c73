"""Randomly changed files are read or refused: no signal, bounded memory and time."""

import os
import subprocess
import sys
from pathlib import Path

COUNT = int(os.environ.get("DECISION_SEQ_FUZZ", "220"))


def test_random_changes_are_read_or_refused(tmp_path: Path) -> None:
    """`DECISION_SEQ_FUZZ=20000` for many; the process has 1 GB and 10 s for an input."""
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "tests.datasets.files.fuzz", str(COUNT), "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith(f"{COUNT} inputs")
