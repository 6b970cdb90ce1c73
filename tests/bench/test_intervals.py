import pytest

from decision_seq.bench.intervals import bench_intervals, intervals_text
from decision_seq.types import UserError


def test_every_kind_of_interval_has_its_rows() -> None:
    result = bench_intervals(draws=100)
    assert {(row["statistic"], row["interval"]) for row in result["rows"]} == {
        ("mean", "Student's t"),
        ("mean", "bootstrap"),
        ("IQM", "bootstrap"),
        ("optimality gap", "bootstrap"),
        ("P(X > Y)", "bootstrap"),
    }
    by_case = {
        (row["statistic"], row["interval"], row["seeds"], row["tasks"]): row["coverage"]
        for row in result["rows"]
    }
    assert by_case["mean", "Student's t", 3, 1] > by_case["mean", "bootstrap", 3, 1] + 0.05
    lines = intervals_text(result).splitlines()
    assert lines[2].split() == ["statistic", "interval", "seeds", "tasks", "coverage"]
    assert len(lines) == 4 + len(result["rows"])


def test_too_few_draws_say_nothing() -> None:
    with pytest.raises(UserError, match="--draws 5"):
        bench_intervals(draws=5)
