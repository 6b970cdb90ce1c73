"""The report of several runs as text: Markdown, and the same facts as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from decision_seq.escaping import markdown as escape
from decision_seq.formatting import interval_text, number_text, target_text
from decision_seq.report.compare import Comparison, Estimate, Group, compare, counted
from decision_seq.report.later import compare_later
from decision_seq.report.published_context import fitting, published_text
from decision_seq.report.runs import FinishedRun
from decision_seq.report.summary import (
    Improvement,
    Summary,
    improvements,
    shared,
    summaries,
)
from decision_seq.report.text import markdown_table


@dataclass(frozen=True)
class Report:
    """All results that a report shows, computed once."""

    comparison: Comparison
    summaries: list[Summary]
    improvements: list[Improvement]
    unfinished: list[str]
    later: Comparison | None = None


def make_report(
    runs: Sequence[FinishedRun], unfinished: Sequence[str], rng: np.random.Generator
) -> Report:
    comparison = compare(runs)
    return Report(
        comparison,
        summaries(comparison, rng),
        improvements(comparison, rng),
        list(unfinished),
        compare_later(runs),
    )


def estimate_text(estimate: Estimate) -> str:
    """`43.2 [41.0, 45.4], 5 seeds`; a raw return is marked `raw`."""
    group = "" if estimate.normalized else ","
    text = number_text(estimate.mean, group=group)
    if estimate.interval is not None:
        text += f" {interval_text(estimate.interval, group=group)}"
    unit = "" if estimate.normalized else " raw"
    return f"{text}{unit}, {counted(estimate)}"


def main_text(report: Report) -> str:
    """The first part of the report, which `decision-seq report` prints without --output."""
    parts = [
        _headline(report.comparison),
        _selection_gain(report.comparison),
        _other_targets(report.comparison),
        "" if report.later is None else _later(report.later),
    ]
    parts += [_over_tasks(report), _unfinished(report.unfinished)]
    return "\n\n".join(part for part in parts if part)


def markdown(report: Report, images: Sequence[tuple[str, str]] = ()) -> str:
    """The whole report; images: (title, file name)."""
    comparison = report.comparison
    parts = ["# Report", main_text(report), published_text(comparison), _protocols(comparison)]
    shown = [(escape(title), name) for title, name in images]
    parts += [f"## {title}\n\n![{title}]({name})" for title, name in shown]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(comparison: Comparison) -> str:
    rows = [
        [
            *(escape(row), target_text((protocol.targets or (None,))[0])),
            *(_cell(comparison.groups.get((row, label))) for label in comparison.labels),
        ]
        for row, protocol in comparison.rows.items()
    ]
    about = (
        "Last checkpoint, first declared target: mean [95 % interval by Student's t] and its"
        " sample. The sample is the seeds where there are several, else the episodes of the one"
        " seed: that interval does not cover the variation between seeds. A method that takes no"
        " target ignores the row's. Normalized scores x100; `raw`: returns, where no reference"
        " scores exist."
    )
    notes = [f"- {escape(note)}" for note in comparison.notes]
    header = ["dataset", "target", *map(escape, comparison.labels)]
    text = f"## Scores\n\n{markdown_table(header, rows)}\n\n{about}"
    return "\n".join([text, "", *notes]) if notes else text


def _cell(group: Group | None, index: int = 0) -> str:
    if group is None or index >= len(group.runs[0].scores.targets):
        return "-"
    return estimate_text(group.estimate(index))


def _selection_gain(comparison: Comparison) -> str:
    """The headline, and what the best evaluation or target, chosen afterwards, would have given."""
    rows = []
    for group in comparison.groups.values():
        evaluations, targets = group.best_of_evaluations(), group.best_of_targets()
        if evaluations is None and targets is None:
            continue
        count = len(group.runs[0].scores.targets)
        rows.append(
            [
                *(escape(group.row), escape(group.label), number_text(group.estimate().mean)),
                _best_of(evaluations, group.evaluations),
                _best_of(targets, count),
            ]
        )
    if not rows:
        return ""
    header = ["dataset", "method", "last", "best of N evaluations, not a result"]
    header.append("best of N targets, not a result")
    return f"## What choosing afterwards would add\n\n{markdown_table(header, rows)}"


def _best_of(value: float | None, count: int) -> str:
    return "-" if value is None else f"{number_text(value)} (best of {count})"


def _other_targets(comparison: Comparison) -> str:
    rows = []
    for group in comparison.groups.values():
        for index, target in enumerate(group.runs[0].targets):
            if index:
                named = [escape(group.row), escape(group.label)]
                rows.append([*named, target_text(target), _cell(group, index)])
    if not rows:
        return ""
    header = ["dataset", "method", "target", "score"]
    return f"## Other declared targets\n\n{markdown_table(header, rows)}"


def _later(later: Comparison) -> str:
    """The table of the later evaluations, one row for each protocol and target."""
    rows = []
    for row, protocol in later.rows.items():
        how = (
            f"{protocol.checkpoint} checkpoint, {protocol.episodes} episodes from seed"
            f" {protocol.seed}, {protocol.env_id}, {protocol.acting}"
        )
        for index, target in enumerate(protocol.targets or (None,)):
            cells = (_cell(later.groups.get((row, label)), index) for label in later.labels)
            rows.append([escape(row), escape(how), target_text(target), *cells])
    about = (
        "By `evaluate`, after training: their protocols were chosen later, so they replace no score"
        " above."
    )
    notes = [f"- {escape(note)}" for note in later.notes]
    header = ["dataset", "protocol", "target", *map(escape, later.labels)]
    text = f"## Later evaluations\n\n{markdown_table(header, rows)}\n\n{about}"
    return "\n\n".join([text, *(["\n".join(notes)] if notes else [])])


def _over_tasks(report: Report) -> str:
    methods, tasks = shared(report.comparison)
    if not tasks:
        return "## Over tasks\n\nNothing is aggregated: no dataset has reference scores."
    rows = [
        [
            escape(s.label),
            s.statistic,
            number_text(s.estimate),
            interval_text(s.interval),
            _share(s.coverage),
        ]
        for s in report.summaries
    ]
    header = ["method", "statistic", "estimate", "95 % interval", "its simulated coverage"]
    about = (
        f"Over {len(tasks)} dataset(s) that these methods have in common:"
        f" {', '.join(map(escape, tasks))}."
        " IQM: mean of the middle half of all runs; optimality gap: mean shortfall from 100, less"
        " is better;"
        " stratified bootstrap (Agarwal et al. 2021), over seeds, not tasks; it needs two seeds in"
        " every task. Coverage: how often such an interval contains the true value, in simulated"
        " normal scores with these means, spreads and numbers of seeds and tasks; nominally 95 %."
    )
    lacking = [label for label in report.comparison.labels if label not in methods]
    if lacking:
        about += f" Left out, as they have no dataset in common: {', '.join(map(escape, lacking))}."
    text = f"## Over tasks\n\n{markdown_table(header, rows)}\n\n{about}"
    pairs = [
        [
            f"{escape(i.over)} > {escape(i.under)}",
            f"{i.probability:.2f}",
            interval_text(i.interval, 2),
            str(i.tasks),
        ]
        for i in report.improvements
    ]
    if pairs:
        header = ["P(X > Y)", "probability of improvement", "95 % interval", "datasets"]
        text += f"\n\n{markdown_table(header, pairs)}"
    return text


def _share(coverage: float | None) -> str:
    return "-" if coverage is None else f"{100 * coverage:.0f} %"


def _unfinished(lines: Sequence[str]) -> str:
    return "\n".join(["## Left out", "", *(f"- {escape(line)}" for line in lines)]) if lines else ""


def _protocols(comparison: Comparison) -> str:
    """Protocols and runs of each row: what is needed to check it or to repeat it."""
    lines = ["## Protocols and runs", "", "Every score is of a run's last checkpoint.", ""]
    for row, protocol in comparison.rows.items():
        groups = [g for (of, _), g in comparison.groups.items() if of == row]
        notes = sorted({note for g in groups for run in g.runs for note in run.scores.notes})
        targets = ", ".join(map(target_text, protocol.targets or (None,)))
        lines += [
            f"### {escape(row)}",
            "",
            f"- data: {escape(protocol.source)}; {protocol.size}",
            f"- environment: {escape(protocol.env_id)}; the policy in {escape(protocol.acting)}",
            *(f"- note: {escape(note)}" for note in notes),
            f"- targets: {targets}; {protocol.episodes} episodes a target, episode i from seed"
            f" {protocol.seed} + i",
            "",
        ]
        runs = [
            [*map(escape, (run.folder.name, group.label, str(run.seed), run.commit or "unknown"))]
            for group in groups
            for run in group.runs
        ]
        lines += [markdown_table(["run", "method", "seed", "commit"], runs), ""]
    return "\n".join(lines).rstrip()


def report_json(report: Report) -> dict[str, Any]:
    """The content of report.json."""
    comparison = report.comparison
    return {
        "rows": {
            row: {**asdict(protocol), "comparable": protocol.comparable}
            for row, protocol in comparison.rows.items()
        },
        "groups": [_group_json(group) for group in comparison.groups.values()],
        "notes": comparison.notes,
        "tasks": shared(comparison)[1],
        "summaries": [asdict(summary) for summary in report.summaries],
        "improvements": [asdict(improvement) for improvement in report.improvements],
        "published": [asdict(entry) for entry in fitting(list(comparison.rows.values()))],
        "unfinished": report.unfinished,
        "later": None if report.later is None else _later_json(report.later),
    }


def _later_json(later: Comparison) -> dict[str, Any]:
    return {
        "rows": {row: asdict(protocol) for row, protocol in later.rows.items()},
        "groups": [_group_json(group) for group in later.groups.values()],
        "notes": later.notes,
    }


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "row": group.row,
        "label": group.label,
        "targets": [
            {"target": target, **asdict(group.estimate(index)), "values": group.values(index)}
            for index, target in enumerate(group.runs[0].targets)
        ],
        "not_a_result": {
            "evaluations": group.evaluations,
            "best_of_evaluations": group.best_of_evaluations(),
            "best_of_targets": group.best_of_targets(),
        },
        "runs": [
            {"folder": str(run.folder), "seed": run.seed, "commit": run.commit}
            for run in group.runs
        ],
    }
