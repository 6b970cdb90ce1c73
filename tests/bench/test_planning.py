"""Plans timed beside plans without a cache."""

import json

import pytest

from decision_seq.bench import planning
from decision_seq.bench.planning import bench_planning, planning_text
from decision_seq.types import UserError


def test_every_entrant_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "HORIZONS", (1, 2))
    monkeypatch.setattr(planning, "BEAMS", 2)
    monkeypatch.setattr(planning, "ENVIRONMENTS", (1, 3))
    result = json.loads(json.dumps(bench_planning(2, 1)))
    rows = result["rows"]
    assert [(row["horizon"], row["cache"], row["environments"]) for row in rows] == [
        (1, False, 1),
        (1, True, 1),
        (1, True, 3),
        (2, False, 1),
        (2, True, 1),
        (2, True, 3),
    ]
    for row in rows:
        assert row["ms_per_environment"] == pytest.approx(row["median_ms"] / row["environments"])
        assert (row["speed"] == 1) != row["cache"]
        assert (row["products"] is None) != row["cache"]
        assert row["products"] is None or 0 < row["products"] < 1
        if row["cache"]:
            shares = [operator["share"] for operator in row["operators"]]
            assert shares == sorted(shares, reverse=True)
            assert 0 < shares[-1] < sum(shares) + row["products"] <= 1
            assert (
                not {operator["name"] for operator in row["operators"]} & planning.product_names()
            )
    assert result["machine"]["threads"] == 1
    text = planning_text(result)
    assert "2 interleaved rounds" in text
    largest = rows[-1]["operators"][0]["name"]
    assert text.count(largest.removeprefix("aten::")) >= 2  # in its row, and in the list below


def test_no_rounds_are_refused() -> None:
    with pytest.raises(UserError, match="rounds 0"):
        bench_planning(0, 1)
