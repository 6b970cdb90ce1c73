"""Time to a score: the scores of finished runs and their training time.

Nothing is trained here; `train` and `sweep` do that. The time is that of the updates, as the runs
logged it, without start-up, checkpoints and evaluations. It is therefore not affected by
interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.bench.timing import machine
from decision_seq.config import require
from decision_seq.formatting import target_text
from decision_seq.report import table
from decision_seq.report.compare import Group, compare
from decision_seq.report.runs import FinishedRun, find_runs, value
from decision_seq.report.statistics import standard_error
from decision_seq.types import Reporter, UserError


def bench_scores(
    paths: Sequence[Path], threshold: float | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Run folders, or folders that contain some -> one row per recipe and target.

    Recipes are distinguished as in `report`. threshold: add when the mean over seeds at the first
    target first reached it, in the evaluations during training. UserError where no run is finished.
    """
    known = threshold is None or math.isfinite(threshold)
    require(known, f"--score {threshold} must be a number")
    runs, unfinished = find_runs(paths)
    for line in unfinished:
        (reporter or Reporter()).say(f"left out: {line}")
    if not runs:
        raise UserError("none of these runs is finished; go on with them by `train --resume`")
    comparison = compare(runs)
    return {
        "what": "scores of the last checkpoints, and the time that their updates took",
        "machine": machine(),  # the one reading the runs; theirs are in their provenance
        "threshold": threshold,
        "notes": comparison.notes,
        "rows": [row for group in comparison.groups.values() for row in _rows(group, threshold)],
    }


def _rows(group: Group, threshold: float | None) -> list[dict[str, Any]]:
    steps = [run.config["train"]["steps"] for run in group.runs]
    seconds = [training_seconds(run, run.config["train"]["steps"]) for run in group.runs]
    trained_on = {_machine(run) for run in group.runs}
    shared = {
        "dataset": group.row,
        "recipe": group.label,
        "seeds": [run.seed for run in group.runs],
        "updates": max(steps),
        "seconds": _mean(seconds),
        "machines": sorted(trained_on),
    }
    rows = []
    for number, target in enumerate(group.runs[0].scores.targets):
        scores = group.values(number)
        row = {
            **shared,
            "target": target.target,
            "normalized": target.normalized_score is not None,
            "mean": float(np.mean(scores)),
            "standard_error": float(standard_error(np.array(scores))) if len(scores) > 1 else None,
        }
        if threshold is not None and number == 0:
            row["reached"] = reached(group, threshold)
        rows.append(row)
    return rows


def training_seconds(run: FinishedRun, until: int) -> float | None:
    """Seconds spent on the updates up to `until`; None where the run did not log its rate."""
    seconds, before = 0.0, 0
    for record in run.metrics:
        rate = record.get("updates_per_second")
        if record["step"] > until:
            break
        if not isinstance(rate, int | float) or not rate > 0:
            return None
        seconds += (record["step"] - before) / rate
        before = record["step"]
    return seconds if before == until else None


def reached(group: Group, threshold: float) -> dict[str, Any] | None:
    """The first update at which all seeds were evaluated and their mean reached the threshold."""
    curves = [
        {record["step"]: value(record["targets"][0]) for record in run.evaluations}
        for run in group.runs
    ]
    for step in sorted(set.intersection(*map(set, curves))):
        if np.mean([curve[step] for curve in curves]) >= threshold:
            seconds = _mean([training_seconds(run, step) for run in group.runs])
            return {"updates": step, "seconds": seconds}
    return None


def _mean(seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return float(np.mean(known)) if len(known) == len(seconds) else None


def _machine(run: FinishedRun) -> str:
    facts = run.provenance.get("machine")
    if not isinstance(facts, dict):
        return "unknown"
    return f"{facts.get('device')}, {facts.get('cores')} cores, {facts.get('threads')} threads"


def scores_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    threshold = result["threshold"]
    head = ["recipe", "dataset", "seeds", "updates", "minutes", "target", "score", "error"]
    rows = []
    for row in result["rows"]:
        error = row["standard_error"]
        cells = [
            row["recipe"],
            row["dataset"],
            str(len(row["seeds"])),
            f"{row['updates']:,}",
            _minutes(row["seconds"]),
            target_text(row["target"]),
            f"{row['mean']:,.1f}" + ("" if row["normalized"] else " (return)"),
            "-" if error is None else f"{error:,.1f}",
        ]
        if threshold is not None:
            cells.append(_reached_text(row))
        rows.append(cells)
    if threshold is not None:
        head.append(f"first at {threshold:g}")
    machines = "; ".join(sorted({name for row in result["rows"] for name in row["machines"]}))
    about = f"{result['what']}; means over seeds, with standard errors\ntrained on: {machines}"
    notes = "".join(f"\nnote: {note}" for note in result["notes"])
    return f"{about}{notes}\n\n{table(head, rows)}"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:,.1f}"


def _reached_text(row: dict[str, Any]) -> str:
    if "reached" not in row:
        return ""
    found = row["reached"]
    if found is None:
        return "never"
    return f"{found['updates']:,}, {_minutes(found['seconds'])} min"
