"""Tests of score tables: ours first, and published scores drawn only where they are in our unit."""

from pathlib import Path

import pytest

from decision_seq.report.compare import compare
from decision_seq.report.html.scores import Block, blocks, duration
from decision_seq.report.published_context import fitting
from decision_seq.report.runs import find_runs
from tests.report.folders import HOPPER, write_run
from tests.report.html.pages import BC, CLONING, RETURNS

DRAWING = 3  # column of the strips


def block(tmp_path: Path, reference: tuple[float, float] | None) -> Block:
    write_run(tmp_path / "a", more=RETURNS, reference=reference)
    cloning = {"policy": BC, "targets": (None,), "more": CLONING}
    write_run(tmp_path / "b", 0, 2500.0, reference=reference, **cloning)
    comparison = compare(find_runs([tmp_path])[0])
    (found,) = blocks(comparison, fitting(list(comparison.rows.values())))
    return found


def test_ours_are_first_and_fall_as_the_published_do(tmp_path: Path) -> None:
    rows = block(tmp_path, HOPPER).table.rows
    assert [row.cells[0].text for row in rows[:2]] == ["cloning", "returns"]
    assert {row.kind for row in rows[2:]} == {"published"}
    scores = [row.cells[1].value or 0.0 for row in rows[2:]]
    assert scores == sorted(scores, reverse=True)
    links = [row.cells[-1].link for row in rows[2:]]
    assert len(set(links)) == len(links)


def test_published_scores_are_drawn_where_they_are_in_our_unit(tmp_path: Path) -> None:
    rows = block(tmp_path, HOPPER).table.rows
    for row in rows:
        strip, doubts = row.cells[DRAWING].strip, row.cells[0].below
        assert (strip is None) is ("not comparable" in doubts)
    assert any("not comparable" in row.cells[0].below for row in rows)


def test_returns_and_normalized_scores_have_no_scale_in_common(tmp_path: Path) -> None:
    ours, published = [], []
    for row in block(tmp_path, None).table.rows:
        (published if row.kind else ours).append(row.cells[DRAWING].strip)
    assert all(ours)
    assert published
    assert not any(published)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.9, "59.9 s"), (60, "1:00 min"), (725, "12:05 min"), (11_220, "3:07 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
