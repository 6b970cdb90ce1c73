"""Tests of the growth benchmark: slopes, sizes and memory."""

import json
from pathlib import Path

import pytest

from decision_seq.bench import growth
from decision_seq.bench.growth import UpdateSize, bench_growth, growth_text, plot_growth, slopes
from decision_seq.bench.sampling import write_random_store
from decision_seq.types import Reporter


def test_a_slope_is_that_of_a_power() -> None:
    series = [{"x": x, "y": 5 * x**3} for x in (2, 3, 7)]
    assert slopes(series, "x", "y") == [None, pytest.approx(3), pytest.approx(3)]
    assert slopes([{"x": 1, "y": 0}, {"x": 2, "y": 1}], "x", "y") == [None, None]


def test_three_axes_are_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_apart", lambda path, size: size.batch * 10**6)
    monkeypatch.setattr(growth, "EPISODES", 1)
    result = json.loads(json.dumps(bench_growth(1, 1, [3, 6], [16, 32], [64, 4])))
    axes = result["axes"]
    assert [row["context"] for row in axes["context"]] == [3, 6]
    assert [row["batch"] for row in axes["batch"]] == [4, 64]
    for row in axes["batch"]:
        assert (row["context"], row["width"]) == (20, 128)
        assert row["min_ms"] == row["median_ms"] > 0
    # FLOPs are linear in the number of windows, and superlinear in the width.
    assert slopes(axes["batch"], "batch", "gflop")[1] == pytest.approx(1)
    assert 1 < slopes(axes["width"], "width", "gflop")[1] < 2
    assert [row["memory_mb"] for row in axes["batch"]] == [4, 64]
    text = growth_text(result)
    assert "batch, at context 20, width 128" in text
    plot_growth(result, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", 1, Reporter())
    assert growth._apart(tmp_path / "store", UpdateSize()) > 20e6  # its largest activations
