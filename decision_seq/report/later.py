"""Later evaluations of runs: what `evaluate` kept in a run's folder `evaluations`.

They are compared among themselves, by protocol as runs are. They never replace the scores of the
last checkpoint, whose protocol was declared before training.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decision_seq.reading import Kinds, Unreadable, fault_of, read_record
from decision_seq.report.compare import Comparison, Protocol, grouped, labels
from decision_seq.report.runs import ACTING, FinishedRun, damaged, scores_of

FOLDER = "evaluations"
RECORD: Kinds = {"kind": str, "time": str, "checkpoint": str, "protocol": dict, "result": dict}
SAID = ", evaluated later"


@dataclass(frozen=True)
class Later:
    """One later evaluation."""

    time: str
    """When it was kept, in UTC."""
    run: FinishedRun
    """The run, with the scores and the protocol of the evaluation in place of its own."""


def later_evaluations(run: FinishedRun) -> list[Later]:
    """The run's later evaluations by rollouts, oldest first. UserError for a damaged record."""
    found = []
    for path in sorted((run.folder / FOLDER).glob("*.json")):
        name = f"{FOLDER}/{path.name}"
        try:
            record = read_record(path, RECORD)
        except Unreadable as error:
            raise damaged(run.folder, name, f"it {error.reason}") from error
        if record["kind"] != "rollout":
            continue
        fault = fault_of(record["protocol"], {**ACTING, "planner": (dict, type(None))})
        if fault:
            raise damaged(run.folder, name, f"protocol: {fault}")
        scores = scores_of(record["result"], run.folder, name)
        protocol = {"evaluation": {**record["protocol"], "env_id": scores.env_id}}
        evaluated = dataclasses.replace(
            run, config={**run.config, **protocol}, scores=scores, evaluations=(), former_targets=()
        )
        found.append(Later(record["time"], evaluated))
    return sorted(found, key=lambda later: later.time)


def compare_later(runs: Sequence[FinishedRun]) -> Comparison | None:
    """The later evaluations of the runs, grouped as the runs are; None where there are none.

    Of several under one protocol the newest is taken. Methods have the names that they have among
    the runs.
    """
    newest: dict[tuple[Path, Protocol], tuple[FinishedRun, str]] = {}
    times: Counter[tuple[Path, Protocol]] = Counter()
    for run, name in zip(runs, labels(runs), strict=True):
        for later in later_evaluations(run):
            key = (run.folder, Protocol.of(later.run))
            newest[key] = later.run, name
            times[key] += 1
    if not newest:
        return None
    evaluated, names = zip(*newest.values(), strict=True)
    made = grouped(evaluated, names, SAID)
    again = [
        f"{folder.name}: evaluated {count} times on {protocol.dataset} by one protocol; the newest"
        " is shown"
        for (folder, protocol), count in times.items()
        if count > 1
    ]
    return dataclasses.replace(made, notes=[*made.notes, *again])
