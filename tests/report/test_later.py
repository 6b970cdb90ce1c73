"""Tests of later evaluations in a report: rows of their own, which change no declared result."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decision_seq.report.later import compare_later
from decision_seq.report.markdown import main_text, make_report, report_json
from decision_seq.report.runs import find_runs, read_run
from decision_seq.types import UserError
from tests.report.folders import write_run


def keep(run: Path, name: str, time: str = "2026-01-01T00:00:00+00:00", **change: Any) -> Path:
    """Write a record of an evaluation at half the run's returns, with other settings."""
    scores = json.loads((run / "scores.json").read_text())
    for target in scores["targets"]:
        target["returns"] = [value / 2 for value in target["returns"]]
        target["return_mean"] /= 2
        target["normalized_score"] = change.get("score", 20.0)
        target["seed"] = change.get("seed", 10_000)
    if "checkpoint" in change:
        scores["checkpoint"] = f"{run}/checkpoints/{change['checkpoint']}"
    protocol = {
        "env_id": scores["env_id"],
        "precision": change.get("precision", "fp32"),
        "temperature": 0.0,
        **({"planner": change["planner"]} if "planner" in change else {}),
    }
    record = {
        **{"kind": change.get("kind", "rollout"), "time": time, "protocol": protocol},
        **{"checkpoint": scores["checkpoint"], "step": 100, "result": scores},
    }
    path = run / "evaluations" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def reported(folder: Path) -> tuple[str, dict[str, Any]]:
    import numpy as np

    report = make_report(*find_runs([folder]), np.random.default_rng(0))
    return main_text(report), report_json(report)


def test_they_are_further_rows_and_change_no_result(tmp_path: Path) -> None:
    policies = {"a": {"name": "dt", "context_length": 5}, "b": {"name": "dt", "context_length": 20}}
    runs = {name: write_run(tmp_path / name, policy=policies[name]) for name in policies}
    text, before = reported(tmp_path)
    assert "Later evaluations" not in text
    assert before["later"] is None
    keep(runs["a"], "same")
    keep(runs["a"], "other", seed=77)
    keep(runs["a"], "earlier", checkpoint="step-00000050")
    keep(runs["b"], "same")
    keep(runs["b"], "planned", planner={"beams": 8, "horizon": 5})
    keep(runs["b"], "calibration", kind="calibration")
    text, after = reported(tmp_path)
    later = after.pop("later")
    before.pop("later")
    assert after == before
    assert text.count("## Later evaluations") == 1
    assert "20.0" in text
    found = [(group["row"], group["label"]) for group in later["groups"]]
    # Each has the name that its run has above, though no other run was evaluated in its way.
    name = "d4rl/hopper-medium-v2, evaluated later"
    five, twenty = "DT context_length 5", "DT context_length 20"
    rows = {row: later["rows"][row] for row, _ in found}
    by_label = {label: [rows[row] for row, of in found if of == label] for label in (five, twenty)}
    assert sorted(row["checkpoint"] for row in by_label[five]) == ["last", "last", "step-00000050"]
    assert sorted(row["seed"] for row in by_label[five]) == [77, 10_000, 10_000]
    assert sorted(row["acting"] for row in by_label[twenty]) == [
        "fp32",
        "fp32, planner beams 8, planner horizon 5",
    ]
    assert all(row.startswith(f"{name} [") for row in rows)
    assert any("checkpoint: last against step-00000050" in note for note in later["notes"])


def test_the_newest_of_one_protocol_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    keep(run, "a", "2026-01-02T00:00:00+00:00", score=30.0)
    keep(run, "b", "2026-01-01T00:00:00+00:00", score=40.0)
    made = compare_later([read_run(run)])
    assert made is not None
    (group,) = made.groups.values()
    assert group.values() == [30.0]
    assert made.notes == [
        "run: evaluated 2 times on d4rl/hopper-medium-v2 by one protocol; the newest is shown"
    ]


def change(*keys: Any, to: Any) -> Callable[[dict], None]:
    def edit(record: dict) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = to

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        change("kind", to=3),
        change("protocol", to=[]),
        change("protocol", "temperature", to="warm"),
        change("protocol", "planner", to="wide"),
        change("result", "targets", to=[]),
        change("result", "targets", 0, "returns", to=[1.0]),
        change("result", "env_id", to=None),
        lambda record: record.pop("time"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, edit: Callable[[dict], Any]) -> None:
    run = write_run(tmp_path / "run")
    path = keep(run, "a")
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run is damaged: evaluations/a\.json: .*; leave it out"):
        compare_later([read_run(run)])
    path.write_text("{")
    with pytest.raises(UserError, match=r"evaluations/a\.json: it .*"):
        compare_later([read_run(run)])
