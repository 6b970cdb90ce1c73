"""Tests of the times and scores of finished runs, by recipe."""

import json
from pathlib import Path

import numpy as np
import pytest

from decision_seq.bench.time_to_score import bench_scores, scores_text, training_seconds
from decision_seq.report.runs import read_run
from decision_seq.types import UserError
from tests.conftest import Lines
from tests.report.folders import lines, write_run


def logged(folder: Path, rates: dict[int, float]) -> Path:
    records = [{"step": step, "updates_per_second": rate} for step, rate in rates.items()]
    lines(folder / "metrics.jsonl", records)
    return folder


def test_a_recipes_seeds_are_averaged(tmp_path: Path) -> None:
    for seed in range(3):
        folder = write_run(tmp_path / f"quick{seed}", seed=seed, mean=2000, steps=100)
        logged(folder, {50: 10.0, 100: 5.0 + seed})
    logged(write_run(tmp_path / "long", mean=2500, steps=400), {400: 2.0})
    result = json.loads(json.dumps(bench_scores([tmp_path], threshold=30)))
    assert [row["target"] for row in result["rows"]] == [3600, 1800] * 2
    long, quick = sorted(result["rows"][::2], key=lambda row: row["updates"], reverse=True)
    assert (quick["updates"], quick["seeds"]) == (100, [0, 1, 2])
    assert quick["seconds"] == pytest.approx(np.mean([50 / 10 + 50 / (5 + s) for s in range(3)]))
    runs = [read_run(tmp_path / f"quick{seed}") for seed in range(3)]
    scores = [run.headline.normalized_score for run in runs]
    assert quick["mean"] == pytest.approx(np.mean(scores))
    assert quick["standard_error"] == pytest.approx(np.std(scores, ddof=1) / 3**0.5)
    assert (long["standard_error"], long["seconds"]) == (None, 200)
    # Scores rise linearly to 62 and pass 30 at half of the updates.
    assert quick["reached"]["updates"] == 50
    assert quick["reached"]["seconds"] == 5
    assert long["reached"] == {"updates": 200, "seconds": None}  # not logged up to there
    text = scores_text(result)
    assert "first at 30" in text
    assert "50, 0.1 min" in text
    assert "never" in scores_text(bench_scores([tmp_path], threshold=200))


def test_a_run_that_logged_no_rate_has_no_time(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert training_seconds(run, 100) is None
    run = read_run(logged(tmp_path / "run", {60: 3.0}))  # and a log that stops before the end
    assert (training_seconds(run, 60), training_seconds(run, 100)) == (20, None)


def test_unfinished_runs_are_named_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "done")
    (write_run(tmp_path / "cut") / "scores.json").unlink()
    told = Lines()
    assert len(bench_scores([tmp_path], reporter=told)["rows"]) == 2
    assert any("cut: unfinished" in line for line in told.lines)
    with pytest.raises(UserError, match="none of these runs is finished"):
        bench_scores([tmp_path / "cut"])
