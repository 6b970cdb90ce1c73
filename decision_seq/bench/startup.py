"""Benchmark of start-up: wall seconds of a fresh process until a command's work begins.

Commands are run as a user runs them. The time of the first update is that of metrics.jsonl, whose
only record is written right after the update. The time of a rollout's first step is written by the
environment (`bench.first_step`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.bench.first_step import noting
from decision_seq.bench.sampling import write_random_store
from decision_seq.bench.timing import interleaved, machine, prepare, rows_text
from decision_seq.types import Reporter, UserError

EPISODES = 200
ENV_ID = "Hopper-v4"
WARMUP_ROUNDS = 1  # makes the labels and fills the page cache
TIMEOUT = 600.0


def bench_startup(
    rounds: int,
    dataset: str | None = None,
    checkpoint: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Seconds to the help text, to the first update and to a rollout's first step.

    dataset: the training data, None for a store of 200,000 random transitions of Hopper's sizes;
    checkpoint: the one to roll out, None to make one here.
    """
    prepare(rounds, None)
    facts = machine()
    env_id = ENV_ID if checkpoint is None else _environment(checkpoint)
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as name:
        folder = Path(name)
        if dataset is None:
            dataset = str(folder / "store")
            write_random_store(Path(dataset), EPISODES, Reporter())
        trained = folder / "trained"
        if checkpoint is None:
            _first_update(dataset, trained)
        calls: dict[str, Callable[[], float]] = {
            "--help": _help,
            "train, to its first update": _numbered(folder, lambda at: _first_update(dataset, at)),
            "evaluate, to its first step": _numbered(
                folder, lambda at: _first_step(checkpoint or trained, env_id, at)
            ),
        }
        timed = interleaved(calls, rounds, WARMUP_ROUNDS, reporter)
    rows = []
    for name, times in timed.items():
        seconds = [of for (of,) in times.returned]
        row = {"name": f"decision-seq {name}", "median_s": float(np.median(seconds))}
        rows.append({**row, "min_s": min(seconds), "max_s": max(seconds)})
    return {
        "what": "wall seconds from the start of a fresh process",
        "machine": facts,
        "rounds": rounds,
        "dataset": "random numbers" if Path(dataset).is_relative_to(folder) else dataset,
        "env_id": env_id,
        "rows": rows,
    }


def startup_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    columns = {
        "median_s": ("median s", ".2f"),
        "min_s": ("min", ".2f"),
        "max_s": ("max", ".2f"),
    }
    about = (
        f"{result['what']}; {result['rounds']} interleaved rounds after one to warm up; data:"
        f" {result['dataset']}; environment: {result['env_id']}"
    )
    return f"{about}\n\n{rows_text(result['rows'], columns)}"


def _environment(checkpoint: Path) -> str:
    from decision_seq.evaluation import open_checkpoint

    return open_checkpoint(checkpoint, episodes=1).evaluation.env_id


def _numbered(folder: Path, measure: Callable[[Path], float]) -> Callable[[], float]:
    """Call `measure` with a new output path each time."""

    def run() -> float:
        return measure(Path(tempfile.mkdtemp(dir=folder)) / "made")

    return run


def _help() -> float:
    started = time.time()
    _run("--help")
    return time.time() - started


def _first_update(dataset: str, output: Path) -> float:
    started = time.time()
    _run(
        *("train", "--dataset", dataset, "--output", str(output)),
        *("--train.steps", "1", "--train.warmup_steps", "0", "--evaluation.episodes", "0"),
    )
    return (output / "metrics.jsonl").stat().st_mtime - started


def _first_step(checkpoint: Path, env_id: str, note: Path) -> float:
    started = time.time()
    _run("evaluate", str(checkpoint), "--env", noting(env_id, note), "--episodes", "1")
    return float(note.read_text()) - started


def _run(*arguments: str) -> None:
    """Run a command; UserError with the last line of its output where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "decision_seq", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        # Without a launcher's variables: the command runs as a single process.
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"`decision-seq {' '.join(arguments)}` failed: {said}")
