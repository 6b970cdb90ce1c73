"""Tests of planner overrides at evaluation, and of the notes about them."""

import json
from pathlib import Path

import pytest

from decision_seq.cli import main
from decision_seq.evaluation import open_checkpoint
from decision_seq.types import UserError
from tests.analysis.test_model_error import long_store, run  # noqa: F401

HOPPER = ["--env", "Hopper-v4", "--episodes", "1"]


def test_a_plan_may_be_another(run: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    opened = open_checkpoint(run, planner={"beams": 2, "horizon": 1}, env_id="Hopper-v4")
    trained = open_checkpoint(run, env_id="Hopper-v4").loaded.policy.config.planner
    planner = opened.loaded.policy.config.planner
    assert (planner.beams, planner.horizon) == (2, 1)
    assert (trained.beams, trained.horizon) == (32, 5)
    assert planner.cdf_action == trained.cdf_action == 0.6
    capsys.readouterr()
    given = ["--planner", "beams=0x2", "--planner", "horizon='1'", "expand=2", "--json"]
    assert main(["evaluate", str(run), *HOPPER, *given]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    planned = [note for note in notes if note.startswith("planner.")]
    assert planned == ["planner.beams 2, 32 in training", "planner.horizon 1, 5 in training"]
    (record,) = (run / "evaluations").iterdir()
    assert json.loads(record.read_text())["protocol"]["planner"] == {"beams": 2, "horizon": 1}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("beams", "--planner 'beams' is no key=value"),
        ("beam=3", "unknown key planner.beam; did you mean planner.beams?"),
        ("beams=0", "beams 0 must be at least 1"),
        ("context=9", "exceed policy.context_length"),
        ("k_action=true", "planner.k_action True is no whole number"),
        ("horizon=1 beams=2 horizon=3", "--planner horizon is given twice"),
    ],
)
def test_what_no_planner_has_is_said(run: Path, setting: str, named: str, capsys) -> None:  # noqa: F811
    assert main(["evaluate", str(run), *HOPPER, "--planner", *setting.split()]) == 2
    assert named in capsys.readouterr().err


def test_plans_that_memory_does_not_hold_are_one_line(run: Path, monkeypatch) -> None:  # noqa: F811
    opened = open_checkpoint(run, env_id="Hopper-v4", episodes=1, workers=1)

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(opened.loaded.policy, "plan", full)
    with pytest.raises(UserError, match="memory does not hold these rollouts"):
        opened.scores()


def test_what_plans_nothing_has_no_planner(tmp_path: Path, long_store) -> None:  # noqa: F811
    output = tmp_path / "dt"
    keys = {"train.steps": 2, "evaluation.episodes": 0, "policy.backbone.width": 8}
    given = [part for key, value in keys.items() for part in (f"--{key}", str(value))]
    store = ["--dataset", str(long_store.path), "--output", str(output)]
    assert main(["train", "--config", "dt/gym", *store, *given]) == 0
    with pytest.raises(UserError, match="makes no plans"):
        open_checkpoint(output, planner={"beams": 2})
