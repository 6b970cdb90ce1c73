"""Tests of learning curves: means over seeds, times of evaluations, and lines that are drawn."""

from pathlib import Path

import numpy as np
import pytest

from decision_seq.report.compare import compare
from decision_seq.report.html.curves import Record, evaluated, learning, lost, means
from decision_seq.report.html.profiles import profile_chart
from decision_seq.report.runs import find_runs, read_run
from decision_seq.report.statistics import mean_interval
from tests.report.folders import lines, write_run


def test_means_are_taken_where_all_seeds_have_a_value() -> None:
    one = [Record(10, 5.0, 1.0), Record(20, 10.0, 2.0), Record(30, 15.0, 3.0)]
    other = [Record(10, 7.0, 3.0), Record(30, None, 9.0)]
    first, last = means([one, other])
    assert first == (10, 6.0, 2.0, mean_interval([1.0, 3.0]))
    assert (last.step, last.seconds, last.value) == (30, None, 6.0)
    assert means([one])[0].interval is None
    assert means([]) == []


def test_an_evaluation_has_its_own_time_or_one_between_two_records(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")  # evaluations at 25, 50, 75, 100; half a second an update
    lines(folder / "metrics.jsonl", [{"step": s, "seconds": float(s)} for s in (20, 40, 80)])
    times = [record.seconds for record in evaluated(read_run(folder))]
    assert times == [25, 50, 75, None]  # the last is beyond all records
    text = (folder / "evaluations.jsonl").read_text()
    (folder / "evaluations.jsonl").write_text(text.replace('{"step"', '{"seconds": 7.5, "step"'))
    assert {record.seconds for record in evaluated(read_run(folder))} == {7.5}


def test_losses_are_logarithmic_where_they_can_be(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    comparison = compare(find_runs([tmp_path])[0])
    _, loss = learning(comparison, "d4rl/hopper-medium-v2").by_updates
    assert loss.y.log
    assert loss.y_label == "training loss, log scale"
    records = [{"step": 1, "loss": -2.0}, {"step": 2, "loss": 3.0}, {"step": 3, "loss": 1e300}]
    lines(folder / "metrics.jsonl", [*records, {"step": 4, "loss": None}])
    assert [record.step for record in lost(read_run(folder))] == [1, 2]
    comparison = compare(find_runs([tmp_path])[0])
    _, loss = learning(comparison, "d4rl/hopper-medium-v2").by_updates
    assert not loss.y.log
    assert len(loss.series[0].values) == 2


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_seeds_are_thin_lines_and_three_have_a_band(tmp_path: Path, seeds: int) -> None:
    for seed in range(seeds):
        write_run(tmp_path / str(seed), seed)
    found = learning(compare(find_runs([tmp_path])[0]), "d4rl/hopper-medium-v2")
    score, loss = found.by_updates
    (series,) = score.series
    assert len(series.thin) == (seeds if seeds > 1 else 0)
    assert bool(series.band) is found.banded is (seeds == 3)
    assert loss.series[0].band == ""
    assert len(series.values) == 4
    assert len(found.values.rows) == 4
    assert series.values[-1].x == "100 updates"
    assert ("[" in series.values[-1].y) is (seeds > 1)
    by_time, _ = found.by_seconds
    assert by_time.series[0].values[-1].x == "50.0 seconds"


def test_runs_without_a_time_are_left_out_of_the_wall_clock_and_counted(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), seed, timed=seed > 0)
    found = learning(compare(find_runs([tmp_path])[0]), "d4rl/hopper-medium-v2")
    assert found.untimed == 1
    assert [len(chart.series[0].thin) for chart in found.by_seconds] == [2, 2]
    assert [len(chart.series[0].thin) for chart in found.by_updates] == [3, 3]


def test_runs_without_evaluations_have_a_loss_only(tmp_path: Path) -> None:
    write_run(tmp_path / "a", evaluations=0)
    (chart,) = learning(compare(find_runs([tmp_path])[0]), "d4rl/hopper-medium-v2").by_updates
    assert chart.name == "loss-updates-0"


def test_profiles_need_several_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    assert profile_chart(compare(find_runs([tmp_path])[0]), np.random.default_rng(0)) is None
    write_run(tmp_path / "b", 1)
    chart = profile_chart(compare(find_runs([tmp_path])[0]), np.random.default_rng(0))
    assert chart is not None
    (series,) = chart.series
    assert series.values[0].y == "100 % of runs above"
    assert series.values[-1].y == "0 % of runs above"
    assert series.band
