"""Score tables of a page: by dataset and method, beside published numbers, and of every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decision_seq.formatting import interval_text, number_text, target_text
from decision_seq.report.compare import Comparison, Group, Protocol, counted
from decision_seq.report.html.axes import Axis
from decision_seq.report.html.drawing import Look
from decision_seq.report.html.strips import heading, scale, strip
from decision_seq.report.html.tables import Cell, Column, Row, Table
from decision_seq.report.plots import axis_of_row
from decision_seq.report.published import Published
from decision_seq.report.published_context import fitting, paper_score, published_cell
from decision_seq.report.runs import FinishedRun, value
from decision_seq.report.statistics import Interval

NONE = Cell("-")


@dataclass(frozen=True)
class Block:
    """The scores of one row of the comparison, beside published ones."""

    row: str
    dataset: int
    """Number of the row, for the filter."""
    facts: Sequence[tuple[str, str]]
    """The protocol: names and texts."""
    table: Table
    published: int
    """Number of published scores in the table."""
    comparable: bool
    """Whether these are a comparison; if not they are context."""


def overview(comparison: Comparison) -> Table:
    """The table of all rows and methods."""
    columns = [Column("dataset"), Column("target", True)]
    columns += [Column(label, True, number) for number, label in enumerate(comparison.labels)]
    rows = []
    for number, (row, protocol) in enumerate(comparison.rows.items()):
        target = (protocol.targets or (None,))[0]
        cells = [Cell(row, link=f"dataset-{number}"), Cell(target_text(target), target)]
        for method, label in enumerate(comparison.labels):
            group = comparison.groups.get((row, label))
            cells.append(
                Cell("-", method=method) if group is None else estimate_cell(group, method)
            )
        rows.append(Row(cells, number))
    return Table("overview", "Scores by dataset and method", columns, rows)


def estimate_cell(group: Group, method: int = -1, index: int = 0) -> Cell:
    """A method's mean at target number `index`, its interval below."""
    estimate = group.estimate(index)
    separator = "" if estimate.normalized else ","
    text = number_text(estimate.mean, group=separator)
    interval = "" if estimate.interval is None else interval_text(estimate.interval, 1, separator)
    unit = "" if estimate.normalized else " raw"
    return Cell(f"{text}{unit}", estimate.mean, interval, method=method)


def blocks(comparison: Comparison, entries: Sequence[Published]) -> list[Block]:
    """The scores of each row. entries: all published ones of the page, in their order."""
    return [
        _block(comparison, row, protocol, number, entries)
        for number, (row, protocol) in enumerate(comparison.rows.items())
    ]


def _block(
    comparison: Comparison,
    row: str,
    protocol: Protocol,
    number: int,
    entries: Sequence[Published],
) -> Block:
    groups = [group for (of, _), group in comparison.groups.items() if of == row]
    normalized = groups[0].estimate().normalized
    fits = fitting([protocol])
    numbered = [(at, entry) for at, entry in enumerate(entries, 1) if entry in fits]
    values, intervals = _extent(groups)
    for _, entry in numbered:
        if _on_scale(entry, normalized):
            values.append(entry.scores[protocol.task][0])
    axis = scale(values, intervals)
    rows = [_ours(comparison, group, axis, number) for group in groups]
    rows += [made for group in groups for made in _by_paper(comparison, group, protocol, number)]
    rows += [
        _published(entry, protocol.task, axis, normalized, at, number) for at, entry in numbered
    ]
    rows.sort(key=lambda made: (made.kind, -(made.cells[1].value or 0.0)))  # ours first
    columns = [
        *(Column("method"), Column("score", True)),
        *(Column("95 % interval, or ±", True, sortable=False), Column("", strip=heading(axis))),
        *(Column("sample"), Column("checkpoint"), Column("source")),
    ]
    targets = ", ".join(map(target_text, protocol.targets or (None,)))
    facts = [
        ("Environment", f"{protocol.env_id}, policy in {protocol.acting}"),
        (
            "Protocol",
            f"targets {targets}; {protocol.episodes} episodes a target, from seed {protocol.seed}",
        ),
        ("Data", f"{protocol.source}; {protocol.size}"),
    ]
    title = f"{row}: {axis_of_row(comparison, row)}"
    return Block(
        row,
        number,
        facts,
        Table(f"scores-{number}", title, columns, rows, kind="scores"),
        len(numbered),
        protocol.comparable,
    )


def _extent(groups: Sequence[Group]) -> tuple[list[float], list[Interval]]:
    """All values and intervals of a row's own methods."""
    values = [number for group in groups for number in (*group.values(), group.estimate().mean)]
    found = [group.estimate().interval for group in groups]
    return values, [interval for interval in found if interval is not None]


def _on_scale(entry: Published, normalized: bool) -> bool:
    """Whether a published score is in the unit of the row."""
    return normalized and entry.comparable and entry.unit == "normalized"


def _ours(comparison: Comparison, group: Group, axis: Axis, dataset: int) -> Row:
    method = comparison.labels.index(group.label)
    estimate, cell = group.estimate(), estimate_cell(group)
    seeds = group.values() if estimate.over == "seeds" else []
    description = f"{group.label}: {cell.text} {cell.below}"
    drawn = strip(axis, Look.of(method), estimate.mean, estimate.interval, seeds, description)
    cells = [
        *(Cell(group.label), Cell(cell.text, cell.value), Cell(cell.below or "-")),
        *(Cell("", strip=drawn), Cell(counted(estimate)), Cell("last"), Cell("ours")),
    ]
    return Row(cells, dataset, method)


def _by_paper(comparison: Comparison, group: Group, protocol: Protocol, dataset: int) -> list[Row]:
    """Our score by the reference scores of the Decision Transformer paper, where it has others."""
    score = paper_score(group, protocol.task)
    if score is None:
        return []
    cells = [
        *(Cell(f"{group.label}, by the DT paper's pair"), Cell(number_text(score), score), NONE),
        *(NONE, Cell(counted(group.estimate())), Cell("last"), Cell("ours")),
    ]
    return [Row(cells, dataset, comparison.labels.index(group.label))]


def _published(
    entry: Published, task: str, axis: Axis, normalized: bool, number: int, dataset: int
) -> Row:
    mean, spread = entry.scores[task]
    text, _, around = published_cell(entry, task).partition(" ± ")
    drawn = NONE
    if _on_scale(entry, normalized):
        ends = None if spread is None else (mean - spread, mean + spread)
        drawn = Cell("", strip=strip(axis, None, mean, ends, (), f"{entry.title}: {text}"))
    unit = "" if entry.unit == "normalized" else entry.unit
    seeds = "-" if entry.seeds is None else f"{entry.seeds} seed{'s' if entry.seeds > 1 else ''}"
    cells = [
        Cell(entry.method, below=_by(entry)),
        Cell(text, mean, unit),
        Cell(f"± {around}", below=entry.spread) if around else NONE,
        drawn,
        Cell(seeds),
        Cell(entry.protocol),
        Cell(f"[{number}]", link=f"source-{number}"),
    ]
    return Row(cells, dataset, kind="published")


def _by(entry: Published) -> str:
    """Who published a score, and what must be known of it at once."""
    doubts = [
        *([] if entry.verified else ["UNVERIFIED"]),
        *([] if entry.comparable else ["not comparable"]),
    ]
    return f"{entry.by} ({', '.join(doubts)})" if doubts else entry.by


def every_run(comparison: Comparison) -> Table:
    """The table of single runs."""
    columns = [
        *(Column("run"), Column("dataset"), Column("method"), Column("seed", True)),
        *(Column("score", True), Column("return", True), Column("updates", True)),
        *(Column("training", True), Column("commit")),
    ]
    rows, number = [], 0
    titles = list(comparison.rows)
    for group in comparison.groups.values():
        method = comparison.labels.index(group.label)
        for run in group.runs:
            rows.append(Row(_of_run(run, group, number), titles.index(group.row), method))
            number += 1
    return Table("runs", "Every run, last checkpoint at the first target", columns, rows)


def _of_run(run: FinishedRun, group: Group, number: int) -> list[Cell]:
    first = run.headline
    normalized = first.normalized_score is not None
    separator = "" if normalized else ","
    score = number_text(value(first), group=separator)
    interval = interval_text(first.interval_95, 1, separator)
    steps = run.config["train"]["steps"]
    return [
        Cell(run.folder.name, link=f"run-{number}"),
        *(Cell(group.row), Cell(group.label), Cell(str(run.seed), run.seed)),
        Cell(score if normalized else f"{score} raw", value(first), interval),
        Cell(
            number_text(first.return_mean), first.return_mean, f"± {number_text(first.return_std)}"
        ),
        *(Cell(f"{steps:,}", steps), training_time(run), Cell(run.commit or "unknown")),
    ]


def training_time(run: FinishedRun) -> Cell:
    """Wall-clock seconds until the last record of the training."""
    times = [record["seconds"] for record in run.metrics if record.get("seconds") is not None]
    return Cell(duration(times[-1]), times[-1]) if times else NONE


def duration(seconds: float) -> str:
    """`45 s`, `12:05 min`, `3:07 h`."""
    if seconds < 60:
        return f"{number_text(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
