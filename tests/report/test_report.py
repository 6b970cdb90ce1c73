"""Tests of `decision-seq report`: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest

from decision_seq.cli import main
from decision_seq.envs import FACTS
from decision_seq.report import score_table
from decision_seq.report.plots import plot_calibration, plot_returns
from decision_seq.report.runs import read_run
from decision_seq.types import UserError
from tests.report.folders import BUNDLED, write_run

PNG = b"\x89PNG\r\n\x1a\n"
BC = {"name": "bc", "layers": 3}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in range(2):
        write_run(folder / f"dt-{seed}", seed)
        write_run(folder / f"bc-{seed}", seed, 1200, policy=BC, targets=(None,))
    reacher = {"dataset": "bundled/reacher2d-medium", "source": BUNDLED, "reference": None}
    write_run(folder / "reacher", 0, 20, **reacher)
    (write_run(folder / "half") / "scores.json").unlink()
    return folder


def test_it_prints_tables_and_writes_nothing(
    runs: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    head = next(line for line in printed.splitlines() if line.startswith("| dataset"))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("dataset", "target", "BC (MLP)", "DT")
    ]
    assert "2 seeds" in printed
    assert "4 episodes of 1 seed" in printed
    assert " raw, " in printed
    assert f"- {runs / 'half'}: unfinished" in printed
    for line in printed.splitlines():  # best-of is never a result
        assert "best of" not in line or "not a result" in line or line.startswith("| ")
    heads = [line for line in printed.splitlines() if "not a result" in line]
    assert len(heads) == 1


def test_files(runs: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert main(["report", str(runs), "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((output / "report.json").read_text())
    text = (output / "report.md").read_text()
    images = [line.split("(")[-1].rstrip(")") for line in text.splitlines() if line[:2] == "!["]
    assert sorted(images) == sorted(path.name for path in output.glob("*.png"))
    assert len(images) == 4
    assert all((output / name).read_bytes().startswith(PNG) for name in images)
    for said in ("mujoco 4.0.0", "0123456789ab", "Hopper-v4", "from seed 10000 + i", BUNDLED):
        assert said in text
    compared, context = text.split("## Published numbers, as context only")
    assert "DT, CORL" in compared
    assert "reacher2d" in context
    assert "UNVERIFIED" in compared
    assert {group["label"] for group in printed["groups"]} == {"DT", "BC (MLP)"}


def test_the_same_runs_give_the_same_report(runs: Path, capsys: pytest.CaptureFixture) -> None:
    printed = []
    for _ in range(2):
        main(["report", str(runs)])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("what", ["absent", "file", "unfinished"])
def test_refusals_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, what: str, runs: Path
) -> None:
    (tmp_path / "file").write_text("")
    arguments = {
        "absent": [tmp_path / "absent"],
        "file": [runs, "--output", tmp_path / "file"],
        "unfinished": [runs / "half"],
    }[what]
    assert main(["report", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_a_plot_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.png"):
        plot_returns("x", [1.0, 2.0], [], tmp_path / "x.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot draw"):
        plot_returns("x", [1.0, 2.0], [], tmp_path / "file" / "x.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("reference", [None, (-20.0, 3234.0)])
def test_calibration(tmp_path: Path, reference: tuple[float, float] | None) -> None:
    points = [
        {"target": t, "return_mean": t / 2, "interval_95": interval, "returns": [t / 2]}
        for t, interval in ((1000.0, (400.0, 600.0)), (0.0, None))
    ]
    calibration = {
        "dataset": "d4rl/hopper-medium-v2",
        "env_id": "Hopper-v4",
        "checkpoint": "runs/x/checkpoints/step-00000100",
        "episodes": 1,
        "reference_scores": reference,
        "data_return_quantiles": {"0": 10.0, "50": 400.0, "100": 900.0},
        "points": points,
    }
    plot_calibration(calibration, tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(PNG)


def test_the_score_table_of_a_policy_without_target(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", policy=BC, targets=(None,)))
    assert score_table(run.scores).splitlines()[-1].split()[0] == "-"


def test_ataris_scores_are_called_and_normalized_as_the_literature_does(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Scores are human-normalised, and the paper's own pair is used with its own numbers."""
    breakout = FACTS["atari/breakout"]
    run = write_run(
        *(tmp_path / "run", 0, 30.0, "atari/Breakout", "DQN-replay", (90.0,)),
        reference=breakout.reference_scores,
        env_id=str(breakout.env_id),
    )
    scores = read_run(run).scores
    assert " human-normalized " in score_table(scores)
    mean = scores.targets[0].return_mean
    assert scores.targets[0].normalized_score == pytest.approx(100 * (mean - 1.7) / (30.5 - 1.7))
    assert main(["report", str(run), "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    ours = next(line for line in text.splitlines() if "by the DT paper's pair" in line)
    assert f" {100 * (mean - 2) / (30 - 2):,.1f} " in ours
    assert "267.5 ± 97.5" in text
