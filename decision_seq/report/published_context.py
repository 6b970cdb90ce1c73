"""Published numbers and ours in one table: a comparison on the same data, context on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decision_seq.envs import normalize
from decision_seq.envs.atari_scores import PAPER_SCORES
from decision_seq.escaping import markdown
from decision_seq.formatting import number_text
from decision_seq.report.compare import Comparison, Group, Protocol
from decision_seq.report.published import Published, published
from decision_seq.report.text import markdown_table


def fitting(protocols: Sequence[Protocol]) -> list[Published]:
    """The published entries that have a score on any of these datasets."""
    tasks = {protocol.task for protocol in protocols}
    return [entry for entry in published() if tasks & set(entry.scores)]


def published_text(comparison: Comparison) -> str:
    """Our scores above published ones: a table for D4RL's data, another for other data."""
    parts = []
    for comparable, title, about in (
        (
            True,
            "Comparison with published numbers",
            "The data are D4RL's own files, by their checksums (by their names where none were"
            " published); published scores come from mujoco-py.",
        ),
        (
            False,
            "Published numbers, as context only",
            "Our runs were NOT trained on the data of these publications, so a difference says"
            " nothing about the method.",
        ),
    ):
        rows = {row: p for row, p in comparison.rows.items() if p.comparable == comparable}
        entries = fitting(list(rows.values()))
        if entries:
            parts.append(f"## {title}\n\n{about}\n\n{_published_table(comparison, rows, entries)}")
    return "\n\n".join(parts)


def _published_table(
    comparison: Comparison, rows: dict[str, Protocol], entries: Sequence[Published]
) -> str:
    shown = {
        row: protocol
        for row, protocol in rows.items()
        if any(protocol.task in entry.scores for entry in entries)
    }
    lines = []
    for label in comparison.labels:
        groups = [comparison.groups.get((row, label)) for row in shown]
        cells = ["-" if g is None else number_text(g.estimate().mean) for g in groups]
        lines.append(
            [f"ours: {markdown(label)}", *cells, "last, first target", "see above", "-", ""]
        )
        cells = [
            _paper_normalized(group, protocol.task)
            for group, protocol in zip(groups, shown.values(), strict=True)
        ]
        if set(cells) != {"-"}:
            lines.append(
                [f"ours: {markdown(label)}, by the DT paper's pair", *cells, *lines[-1][-4:]]
            )
    footnotes: list[str] = []
    for entry in entries:
        number = str(len(footnotes) + 1)
        seeds = "not said" if entry.seeds is None else str(entry.seeds)
        cells = [published_cell(entry, protocol.task) for protocol in shown.values()]
        lines.append([entry.title, *cells, entry.protocol, seeds, entry.spread, f"({number})"])
        facts = [entry.source, f"data: {entry.data}", f"environment: {entry.environment}"]
        if entry.unit != "normalized":
            facts.append(f"unit: {entry.unit}")
        if not entry.verified:
            facts.append("UNVERIFIED: look it up before quoting it")
        if not entry.comparable:
            facts.append("NOT comparable with the scores above")
        footnotes.append(f"{number}. {'; '.join([*facts, *entry.caveats])}")
    header = ["method", *map(markdown, shown), "checkpoint or choice", "seeds", "± is", "note"]
    return "\n".join([markdown_table(header, lines), "", *footnotes])


def _paper_normalized(group: Group | None, task: str) -> str:
    score = None if group is None else paper_score(group, task)
    return "-" if score is None else number_text(score)


def paper_score(group: Group, task: str) -> float | None:
    """Our mean, normalized by the two scores that the Decision Transformer paper uses on Atari.

    None for other tasks.
    """
    if task not in PAPER_SCORES:
        return None
    returns = np.array([run.scores.targets[0].return_mean for run in group.runs])
    return float(normalize(returns, PAPER_SCORES[task]).mean())


def published_cell(entry: Published, task: str) -> str:
    """A published score as text, `52.3 ± 2.1`; `-` where there is none."""
    if task not in entry.scores:
        return "-"
    mean, *spread = (f"{x:,.1f}" if round(x, 1) == x else f"{x:,.2f}" for x in _known(entry, task))
    return " ± ".join([mean, *spread])


def _known(entry: Published, task: str) -> list[float]:
    return [number for number in entry.scores[task] if number is not None]
