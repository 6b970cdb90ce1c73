"""Configurations that differ between methods, and the provenance of every run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq.config import flat
from decision_seq.formatting import target_text
from decision_seq.report.compare import Comparison, Group
from decision_seq.report.html.scores import duration, training_time
from decision_seq.report.html.tables import Cell, Column, Row, Table
from decision_seq.report.runs import FinishedRun, launches

ABSENT = ("-",)
LONGEST = 600  # letters of a text that a run's files hold


def plain(value: Any) -> str:
    """A setting or a fact as text: `3600, 1800`, `true`, `none`."""
    if isinstance(value, str):
        text = value
    elif value is None:
        text = "none"
    elif isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        text = ", ".join(map(plain, value)) or "empty"
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@dataclass(frozen=True)
class Differences:
    """Settings of the methods: those that differ, and those that all runs share."""

    table: Table | None
    """Keys that differ; None where there are none."""
    equal: Sequence[tuple[str, str]]


def differences(comparison: Comparison) -> Differences:
    """Compare the configurations of all runs; seeds, which make the replicates, are left out."""
    groups = list(comparison.groups.values())
    settings = [_settings(group) for group in groups]
    keys = sorted(set().union(*settings))
    differing = [key for key in keys if len({of.get(key, ABSENT) for of in settings}) > 1]
    differing += [key for key in keys if key not in differing and len(settings[0][key]) > 1]
    several = len(comparison.rows) > 1
    columns = [Column("key", sortable=False)]
    for group in groups:
        method = comparison.labels.index(group.label)
        title = f"{group.label}, {group.row}" if several else group.label
        columns.append(Column(title, method=method, sortable=False))
    rows = [
        Row(
            [
                Cell(key),
                *(
                    Cell(" | ".join(of.get(key, ABSENT)), method=column.method)
                    for of, column in zip(settings, columns[1:], strict=True)
                ),
            ]
        )
        for key in differing
    ]
    table = Table("differences", "Settings that differ", columns, rows) if rows else None
    equal = [(key, settings[0][key][0]) for key in keys if key not in differing]
    return Differences(table, equal)


def _settings(group: Group) -> dict[str, tuple[str, ...]]:
    """The settings of a method's runs, each with all values that it has among them."""
    trees = [flat(run.config) for run in group.runs]
    return {
        key: tuple(dict.fromkeys(plain(tree[key]) if key in tree else "-" for tree in trees))
        for key in set().union(*trees)
        if key != "seed"
    }


@dataclass(frozen=True)
class Provenance:
    """What is needed to repeat a run."""

    name: str
    number: int
    """Number of the run, of its id in the page."""
    dataset: int
    method: int
    about: str
    """Its method, dataset and seed."""
    facts: Sequence[tuple[str, str]]
    """Names and texts."""
    command: str


def provenance(comparison: Comparison) -> list[Provenance]:
    """The provenance of every run, in the order of the table of runs."""
    titles = list(comparison.rows)
    found: list[Provenance] = []
    for group in comparison.groups.values():
        for run in group.runs:
            found.append(
                Provenance(
                    run.folder.name,
                    len(found),
                    titles.index(group.row),
                    comparison.labels.index(group.label),
                    f"{group.label} on {group.row}, seed {run.seed}",
                    [(name, text) for name, text in _facts(run) if text],
                    _command(run.provenance.get("command")),
                )
            )
    return found


def _facts(run: FinishedRun) -> list[tuple[str, str]]:
    tree, protocol = run.provenance, run.headline
    data = tree.get("data") or {}
    packages = tree.get("packages")
    machine = tree.get("machine")
    steps = run.config["train"]["steps"]
    time = training_time(run)
    return [
        ("Folder", str(run.folder)),
        ("Started", plain(tree.get("started") or "unknown")),
        ("Commit", run.commit or "unknown"),
        ("Packages", _pairs(packages)),
        ("Python", plain(tree.get("python") or "")),
        ("Machine", _pairs(machine)),
        ("Data", f"{run.scores.source}; {run.size}"),
        ("Data's source", _pairs(data.get("source"))),
        ("Environment", run.scores.env_id),
        ("Environment's versions", "; ".join(run.scores.notes)),
        (
            "Seeds",
            f"training {run.seed}; episodes {protocol.seed} to"
            f" {protocol.seed + protocol.episodes - 1} at each target",
        ),
        ("Targets", ", ".join(map(target_text, run.targets))),
        (
            "Checkpoint rule",
            f"the last one, {Path(run.scores.checkpoint).name}, after all {steps:,} updates;"
            " not chosen by its score",
        ),
        ("Training time", "" if time.value is None else duration(time.value)),
        *_resumed(launches(tree)[1:]),
    ]


def _resumed(resumes: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        ("Resumed", f"{plain(launch.get('started'))}: {_command(launch.get('command'))}")
        for launch in resumes
    ]


def _pairs(tree: Any) -> str:
    """A table of plain values on one line: `torch 2.13.0, numpy 2.4.6`."""
    if not isinstance(tree, dict):
        return ""
    return ", ".join(f"{key} {plain(value)}" for key, value in tree.items())[: 2 * LONGEST]


def _command(command: Any) -> str:
    """A command as it is typed in a shell; empty where it is unknown."""
    if isinstance(command, list) and all(isinstance(part, str) for part in command):
        return shlex.join(command)
    return "" if command is None else plain(command)
