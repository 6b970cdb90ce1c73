"""Further tables of a page: other targets, choices made afterwards, and aggregates over tasks."""

from __future__ import annotations

from collections.abc import Sequence

from decision_seq.formatting import interval_text, number_text, target_text
from decision_seq.report.compare import Comparison, Group
from decision_seq.report.html.scores import NONE, estimate_cell
from decision_seq.report.html.tables import Cell, Column, Row, Table
from decision_seq.report.statistics import Interval
from decision_seq.report.summary import Improvement, Summary


def _numbers(comparison: Comparison, group: Group) -> tuple[int, int]:
    """The numbers of a group's row and method, for the filters."""
    return list(comparison.rows).index(group.row), comparison.labels.index(group.label)


def _table(name: str, caption: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table | None:
    return Table(name, caption, columns, rows) if rows else None


def other_targets(comparison: Comparison) -> Table | None:
    """The scores at the declared targets after the first; None where there are none."""
    rows = []
    for group in comparison.groups.values():
        for index, target in enumerate(group.runs[0].targets):
            if index:
                cell = estimate_cell(group, index=index)
                named = [Cell(group.row), Cell(group.label), Cell(target_text(target), target)]
                cells = [*named, Cell(cell.text, cell.value), Cell(cell.below or "-")]
                rows.append(Row(cells, *_numbers(comparison, group)))
    columns = [
        *(Column("dataset"), Column("method"), Column("target", True), Column("score", True)),
        Column("95 % interval", True, sortable=False),
    ]
    return _table("other-targets", "Scores at the other declared targets", columns, rows)


def chosen_afterwards(comparison: Comparison) -> Table | None:
    """What the best evaluation or target, chosen by its score, would have given."""
    rows = []
    for group in comparison.groups.values():
        evaluations, targets = group.best_of_evaluations(), group.best_of_targets()
        if evaluations is None and targets is None:
            continue
        mean = group.estimate().mean
        cells = [
            *(Cell(group.row), Cell(group.label), Cell(number_text(mean), mean)),
            _best(evaluations, group.evaluations),
            _best(targets, len(group.runs[0].scores.targets)),
        ]
        rows.append(Row(cells, *_numbers(comparison, group)))
    columns = [
        *(Column("dataset"), Column("method"), Column("last checkpoint, first target", True)),
        Column("best evaluation, not a result", True),
        Column("best target, not a result", True),
    ]
    return _table("afterwards", "What choosing afterwards would add", columns, rows)


def _best(score: float | None, count: int) -> Cell:
    return NONE if score is None else Cell(number_text(score), score, f"best of {count}")


def over_tasks(comparison: Comparison, summaries: Sequence[Summary]) -> Table | None:
    """Aggregates of each method over the common tasks; None where there is none."""
    rows = [
        Row(
            [
                *(Cell(made.label), Cell(made.statistic)),
                *(Cell(number_text(made.estimate), made.estimate), _interval(made.interval, 1)),
                _share(made.coverage),
            ],
            method=comparison.labels.index(made.label),
        )
        for made in summaries
    ]
    columns = [
        *(Column("method"), Column("statistic"), Column("estimate", True)),
        Column("95 % interval", True, sortable=False),
        Column("its simulated coverage", True),
    ]
    return _table("over-tasks", "Aggregates over the common datasets", columns, rows)


def _interval(interval: Interval | None, decimals: int) -> Cell:
    return Cell(interval_text(interval, decimals))


def _share(coverage: float | None) -> Cell:
    return NONE if coverage is None else Cell(f"{100 * coverage:.0f} %", coverage)


def improvements(comparison: Comparison, found: Sequence[Improvement]) -> Table | None:
    """The probability of improvement of each pair of methods; None where there is no pair."""
    rows = [
        Row(
            [
                *(Cell(pair.over), Cell(pair.under)),
                Cell(f"{pair.probability:.2f}", pair.probability),
                *(_interval(pair.interval, 2), Cell(str(pair.tasks), pair.tasks)),
            ]
        )
        for pair in found
    ]
    columns = [
        *(Column("a run of"), Column("scores above one of"), Column("probability", True)),
        *(Column("95 % interval", True, sortable=False), Column("datasets", True)),
    ]
    return _table("improvements", "Probability of improvement", columns, rows)
