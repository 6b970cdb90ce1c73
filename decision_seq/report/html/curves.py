"""Learning curves of a page: evaluations and training loss, by updates and by wall-clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from decision_seq.formatting import interval_text, number_text
from decision_seq.report.compare import Comparison, Group
from decision_seq.report.html.axes import Axis, spanning, time_unit
from decision_seq.report.html.drawing import (
    X_SPAN,
    Y_SPAN,
    Chart,
    Look,
    Series,
    Value,
    band,
    points,
    thinned,
)
from decision_seq.report.html.tables import Cell, Column, Row, Table
from decision_seq.report.plots import axis_of_row
from decision_seq.report.runs import FinishedRun, is_number, value
from decision_seq.report.statistics import Interval, mean_interval

BANDED = 3  # seeds at least; with two, Student's t spans the whole chart
MOST_MARKERS = 30  # of a line


class Record(NamedTuple):
    """A value of a run at an update."""

    step: int
    seconds: float | None
    """Wall-clock seconds of training until then; None where the run has not recorded them."""
    value: float


Curve = Sequence[Record]


@dataclass(frozen=True)
class Learning:
    """The learning curves of one row of the comparison."""

    row: str
    dataset: int
    """Number of the row, for the filter."""
    legend: tuple[tuple[Look, str, str], ...]
    """Look, name and number of seeds of each method."""
    by_updates: tuple[Chart, ...]
    by_seconds: tuple[Chart, ...]
    """Empty where no run has recorded its wall-clock."""
    untimed: int
    """Runs that have not recorded their wall-clock."""
    banded: bool
    """Whether a band of the mean is drawn."""
    values: Table
    """The scores as numbers."""


def learning(comparison: Comparison, row: str) -> Learning:
    """The learning curves of a row of the comparison."""
    groups = [group for (of, _), group in comparison.groups.items() if of == row]
    number = list(comparison.rows).index(row)
    looks = [Look.of(comparison.labels.index(group.label)) for group in groups]
    scores = [[evaluated(run) for run in group.runs] for group in groups]
    losses = [[lost(run) for run in group.runs] for group in groups]
    scored = axis_of_row(comparison, row)
    plots = (
        Plot("score", "Score at the first target", scored, groups, looks, scores, number),
        Plot("loss", "Training loss", "training loss", groups, looks, losses, number),
    )

    def charts(timed: bool) -> tuple[Chart, ...]:
        found = [plot.chart(timed) for plot in plots]
        return tuple(chart for chart in found if chart is not None)

    return Learning(
        row,
        number,
        tuple((look, g.label, _seeds(len(g.runs))) for look, g in zip(looks, groups, strict=True)),
        charts(False),
        charts(True),
        sum(not is_timed(curve) for curves in losses for curve in curves),
        any(len(curves) >= BANDED for curves in scores),
        _values(groups, looks, scores, number),
    )


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def evaluated(run: FinishedRun) -> list[Record]:
    """The score at the first target of every evaluation.

    Where an evaluation has no time of its own, it is interpolated between the records of the
    training before and after it.
    """
    timed = [record for record in run.metrics if record.get("seconds") is not None]
    steps = [0, *(record["step"] for record in timed)]
    times = [0.0, *(record["seconds"] for record in timed)]

    def seconds(record: dict[str, Any]) -> float | None:
        known = record.get("seconds")
        if known is not None or record["step"] > steps[-1]:
            return known
        return float(np.interp(record["step"], steps, times))

    return [
        Record(record["step"], seconds(record), value(record["targets"][0])) for record in run.curve
    ]


def lost(run: FinishedRun) -> list[Record]:
    """The training loss of every record that has one."""
    return [
        Record(record["step"], record.get("seconds"), record["loss"])
        for record in run.metrics
        if record.get("loss") is not None and is_number(record["loss"])
    ]


def is_timed(curve: Curve) -> bool:
    """Whether every value has its wall-clock."""
    return bool(curve) and all(record.seconds is not None for record in curve)


class Mean(NamedTuple):
    """The mean of a method's runs at an update that all of them have."""

    step: int
    seconds: float | None
    value: float
    interval: Interval | None
    """95 % interval by Student's t; None for a single run."""


def means(curves: Sequence[Curve]) -> list[Mean]:
    """The means of several runs, at the updates that all of them have."""
    if not curves:
        return []
    tables = [{record.step: record for record in curve} for curve in curves]
    found = []
    for step in sorted(set.intersection(*(set(table) for table in tables))):
        records = [table[step] for table in tables]
        times = [record.seconds for record in records if record.seconds is not None]
        values = [record.value for record in records]
        found.append(
            Mean(
                step,
                sum(times) / len(times) if len(times) == len(records) else None,
                sum(values) / len(values),
                mean_interval(values) if len(values) > 1 else None,
            )
        )
    return found


@dataclass(frozen=True)
class Across:
    """The horizontal axis of learning curves: updates, or wall-clock in a unit."""

    timed: bool
    seconds: float = 1.0
    """Seconds of the unit."""
    unit: str = "updates"

    @classmethod
    def of(cls, records: Sequence[Record], timed: bool) -> Across:
        if not timed:
            return cls(False)
        return cls(True, *time_unit(max(record.seconds or 0.0 for record in records)))

    @property
    def label(self) -> str:
        return f"wall-clock of training ({self.unit})" if self.timed else "updates"

    def place(self, record: Record | Mean) -> float:
        """The value of a record on this axis."""
        return (record.seconds or 0.0) / self.seconds if self.timed else float(record.step)

    def text(self, record: Record | Mean) -> str:
        number = number_text(self.place(record)) if self.timed else f"{record.step:,}"
        return f"{number} {self.unit}"


@dataclass(frozen=True)
class Plot:
    """A quantity that is drawn while runs learn, of all methods of a row."""

    name: str
    """`score` or `loss`."""
    title: str
    y_label: str
    groups: Sequence[Group]
    looks: Sequence[Look]
    curves: Sequence[Sequence[Curve]]
    """The runs' curves of each group."""
    number: int
    """Number of the row."""

    @property
    def scored(self) -> bool:
        return self.name == "score"

    def chart(self, timed: bool) -> Chart | None:
        """The chart by updates or by wall-clock; None where there is no curve."""
        keep = is_timed if timed else bool
        drawn = [[curve for curve in of if keep(curve)] for of in self.curves]
        records = [record for of in drawn for curve in of for record in curve]
        if not records:
            return None
        across = Across.of(records, timed)
        log = not self.scored and all(record.value > 0 for record in records)
        last = spanning([0.0, *map(across.place, records)], *X_SPAN, margin=0.03).high
        x = Axis(0.0, last, *X_SPAN)
        y = spanning([record.value for record in records], *Y_SPAN, log=log)
        series = [
            self._series(group.label, look, of, (x, y), across)
            for group, look, of in zip(self.groups, self.looks, drawn, strict=True)
            if of
        ]
        return Chart(
            f"{self.name}-{'seconds' if timed else 'updates'}-{self.number}",
            self.title,
            f"{self.title} of {self.groups[0].row} against {across.label}, one line a method.",
            x,
            y,
            across.label,
            f"{self.y_label}, log scale" if log else self.y_label,
            tuple(series),
        )

    def _series(
        self, name: str, look: Look, curves: Sequence[Curve], axes: tuple[Axis, Axis], by: Across
    ) -> Series:
        x, y = axes
        found = means(curves)
        shown = [found[index] for index in thinned(len(found))]
        values = [
            Value((x(by.place(mean)), y(mean.value)), by.text(mean), self._text(mean))
            for mean in shown
        ]
        thin = [
            points((x(by.place(curve[at])), y(curve[at].value)) for at in thinned(len(curve)))
            for curve in curves
            if len(curves) > 1
        ]
        polygon = ""
        if self.scored and len(curves) >= BANDED:
            ends = [mean.interval or (mean.value, mean.value) for mean in shown]
            polygon = band(x, y, [by.place(mean) for mean in shown], ends)
        marked = self.scored and len(values) <= MOST_MARKERS
        return Series(name, look, tuple(values), tuple(thin), polygon, marked=marked)

    def _text(self, mean: Mean) -> str:
        text = number_text(mean.value, 1 if self.scored else 3)
        if self.scored and mean.interval is not None:
            text += f" {interval_text(mean.interval)}"
        return text


def _values(
    groups: Sequence[Group],
    looks: Sequence[Look],
    scores: Sequence[Sequence[Curve]],
    number: int,
) -> Table:
    """The table of scores by update."""
    found = [
        {mean.step: mean for mean in means([curve for curve in curves if curve])}
        for curves in scores
    ]
    columns = [Column("updates", True)]
    columns += [Column(g.label, True, look.method) for g, look in zip(groups, looks, strict=True)]
    rows = []
    for step in sorted(set().union(*found)):
        cells = [Cell(f"{step:,}", step)]
        for by_step in found:
            mean = by_step.get(step)
            cells.append(Cell("-") if mean is None else _cell(mean))
        rows.append(Row(cells, number))
    return Table(f"values-{number}", f"Scores of {groups[0].row} while learning", columns, rows)


def _cell(mean: Mean) -> Cell:
    interval = "" if mean.interval is None else interval_text(mean.interval)
    return Cell(number_text(mean.value), mean.value, below=interval)
