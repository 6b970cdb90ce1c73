"""Tests of plots: nothing is cut, no legend covers a curve, and axes say what they show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from decision_seq.report.compare import compare
from decision_seq.report.plots import (
    folded,
    plot_calibration,
    plot_learning,
    plot_profiles,
    plot_returns,
    plot_seeds,
    score_axis,
)
from decision_seq.report.runs import find_runs
from tests.report.folders import lines, write_run

LONG = "minari/somebody/a-very-long-name-of-a-dataset/medium-expert-replay-v12"


def test_long_names_are_folded() -> None:
    assert folded("short", 30) == "short"
    assert folded("one line\nanother", 30) == "one line\nanother"
    for name in (LONG, "x" * 100, "a b " * 30, ""):
        lines = folded(name, 30).splitlines()
        assert all(len(line) <= 30 for line in lines)
        assert "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_axes_name_the_score_of_their_environments() -> None:
    assert score_axis(["Hopper-v4"]) == "normalized score (0 random, 100 expert)"
    assert score_axis(["atari/Pong-v0"]) == "normalized score (0 random, 100 human)"
    both = score_axis(["atari/Pong-v0", "Hopper-v4"])
    assert both == "normalized score (0 random, 100 expert or human)"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn; they are not written."""
    figures: list[Figure] = []

    def savefig(figure: Figure, path: Path, **options: Any) -> None:
        assert options["bbox_inches"] == "tight"
        FigureCanvasAgg(figure).draw()
        figures.append(figure)
        path.write_text("")

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def check(figure: Figure) -> None:
    """Nothing lies outside the figure, no legend lies on axes, and no tick's number on another."""
    renderer, whole = figure.canvas.get_renderer(), figure.bbox.padded(3)  # type: ignore
    for axes in figure.axes:
        boxes = [axes.title.get_window_extent(), axes.xaxis.label.get_window_extent()]
        boxes += [label.get_window_extent() for label in axes.get_yticklabels()]
        for box in boxes:
            assert whole.containsx(box.x0)
            assert whole.containsx(box.x1)
        assert axes.get_legend() is None
        shown = [t.label1.get_window_extent() for t in axes.yaxis._update_ticks()]  # type: ignore
        centres = sorted((box.y0 + box.y1) / 2 for box in shown)
        heights = [box.height for box in shown if box.height]
        if heights:
            assert not (np.diff(centres) < 0.8 * min(heights)).any()
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert whole.containsx(box.x0)
        assert whole.containsx(box.x1)
        assert not any(box.overlaps(axes.bbox.padded(-1)) for axes in figure.axes)


def test_a_report_of_one_dataset_with_long_names(tmp_path: Path, drawn: list[Figure]) -> None:
    for seed in range(2):
        method = {"method": "a-very-long-name-of-a-behaviour-cloning-variant-with-context"}
        write_run(tmp_path / f"a{seed}", seed, policy={"name": "bc", "layers": 3}, more=method)
        write_run(tmp_path / f"b{seed}", seed, 2500.0, dataset=LONG.replace("12", "2"))
    comparison = compare(find_runs([tmp_path])[0])
    (row, *_) = comparison.rows
    path = tmp_path / "x.png"
    plot_seeds(comparison, path)
    plot_learning(comparison, row, path)
    plot_profiles(comparison, path, np.random.default_rng(0))
    for figure in drawn:
        check(figure)
    assert len(drawn[1].legends) == len(drawn[2].legends) == 1
    assert drawn[0].axes[0].get_xlabel() == "normalized score (0 random, 100 expert)"


@pytest.mark.parametrize("scale", [1500.0, 1e-4])
def test_a_calibration_and_a_histogram(tmp_path: Path, drawn: list[Figure], scale: float) -> None:
    points = [
        {"target": t * scale, "return_mean": t * scale, "interval_95": None, "returns": [t * scale]}
        for t in (0.5, 1.0, 2.0)
    ]
    about = {"dataset": LONG, "env_id": "Hopper-v4", "checkpoint": "run/step-00003000"}
    quantiles = {"0": 0.0, "50": scale, "100": 2 * scale}
    facts = {"episodes": 1, "reference_scores": (0.0, 2 * scale), "points": points}
    calibration = {**about, **facts, "data_return_quantiles": quantiles}
    plot_calibration(calibration, tmp_path / "c.png")
    plot_returns(LONG, scale * np.arange(9.0), (2 * scale, scale), tmp_path / "r.png")
    for figure in drawn:
        check(figure)
    texts = [text.get_text() for text in drawn[1].legends[0].get_texts()]
    shown = ["3,000", "1,500"] if scale > 1 else ["0.0002", "0.0001"]
    assert texts == [f"suggested target {target}" for target in shown]
    for tick in drawn[1].axes[0].get_xticklabels():
        assert len(tick.get_text()) < 7


def test_losses_below_zero_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    """A negative log-likelihood may be below 0, where a logarithmic axis shows nothing."""
    folder = write_run(tmp_path / "a")
    lines(folder / "metrics.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": -1.0}])
    comparison = compare(find_runs([tmp_path])[0])
    plot_learning(comparison, next(iter(comparison.rows)), tmp_path / "x.png")
    check(drawn[0])
    losses = drawn[0].axes[1]
    assert (losses.get_yscale(), losses.get_ylabel()) == ("linear", "loss")
    low, high = losses.get_ylim()
    assert low < -1 < 2 < high


def test_a_legend_names_methods_that_have_a_loss_only(tmp_path: Path, drawn: list[Figure]) -> None:
    write_run(tmp_path / "a", more={"method": "returns"})
    cloning = {"policy": {"name": "bc"}, "targets": (None,), "more": {"method": "cloning"}}
    write_run(tmp_path / "b", evaluations=0, **cloning)
    comparison = compare(find_runs([tmp_path])[0])
    plot_learning(comparison, next(iter(comparison.rows)), tmp_path / "x.png")
    check(drawn[0])
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert sorted(texts) == ["cloning, 1 seed", "returns, 1 seed"]


@pytest.mark.parametrize("ends", [(0.42, 0.47), (0.3, 4.0), (1e-6, 30.0)])
def test_a_loss_has_a_few_readable_ticks(
    tmp_path: Path, drawn: list[Figure], ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a")
    curve = list(zip(range(10), np.geomspace(*ends, 10), strict=True))
    monkeypatch.setattr("decision_seq.report.plots.loss_curve", lambda run: curve)
    comparison = compare(find_runs([tmp_path])[0])
    plot_learning(comparison, next(iter(comparison.rows)), tmp_path / "x.png")
    check(drawn[0])
    losses = drawn[0].axes[1]
    low, high = losses.get_ylim()
    texts = [
        tick.label1.get_text()
        for tick in losses.yaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]
    assert 2 <= len(texts) <= 12
    assert len(set(texts)) == len(texts)
