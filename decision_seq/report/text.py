"""Results as aligned text tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decision_seq.config import save_text
from decision_seq.envs import score_name
from decision_seq.escaping import terminal
from decision_seq.types import Scores


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A text table: the first column is aligned left, the others right."""
    cells = [[terminal(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that its text is aligned: first column left, others right.

    Names in its cells must have been escaped, by `escaping.markdown`.
    """
    cells = [list(row) for row in [header, *rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(parts)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def score_table(scores: Scores) -> str:
    """The score table, with the facts that are needed to interpret a score."""
    rows = []
    for target in scores.targets:
        interval = target.interval_95
        score = target.normalized_score
        rows.append(
            [
                target_text(target.target),
                f"{target.return_mean:,.1f} ± {target.return_std:,.1f}",
                "-" if score is None else f"{score:.1f}",
                "-" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]",
                f"{sum(target.lengths) / len(target.lengths):.0f}",
                str(target.episodes),
            ]
        )
    name = score_name(scores.env_id)
    header = ["target", "return (mean ± std)", name, "95 % interval", "length", "episodes"]
    lines = [
        f"dataset      {scores.dataset}",
        f"source       {scores.source}",
        f"environment  {scores.env_id}",
        f"checkpoint   {scores.checkpoint}",
        *(f"note         {note}" for note in scores.notes),
        "",
        table(header, rows),
    ]
    return "\n".join([*map(terminal, lines[:-1]), lines[-1]])


def target_text(target: float | None) -> str:
    """A target return as it is printed; `-` for None, of an unconditioned policy."""
    return "-" if target is None else f"{target:,.0f}"


def calibration_text(calibration: dict[str, Any]) -> str:
    """Table of the results of `evaluate.calibrate`, one row per target."""
    rows = []
    for point in calibration["points"]:
        low, high = point["interval_95"]
        rows.append(
            [
                target_text(point["target"]),
                f"{point['return_mean']:,.1f}",
                f"[{low:,.1f}, {high:,.1f}]" if len(point["returns"]) > 1 else "-",
                f"{point['return_mean'] - point['target']:+,.1f}",
            ]
        )
    known = calibration["data_return_quantiles"]
    named = [calibration[key] for key in ("dataset", "env_id", "checkpoint")]
    about = (
        f"{terminal(', '.join(named))}\n"
        f"{calibration['episodes']} episodes a target; the data's returns: {known['0']:,.1f} to"
        f" {known['100']:,.1f}, median {known['50']:,.1f}"
    )
    return f"{about}\n\n{table(['target', 'return', '95 % interval', 'difference'], rows)}"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; UserError when it cannot be written."""
    save_text(path, json.dumps(value, indent=1) + "\n")


def scores_json(scores: Scores) -> dict[str, Any]:
    """The content of scores.json."""
    return asdict(scores)


def inspection_text(facts: dict[str, Any]) -> str:
    """The facts of `inspect` as aligned text."""
    length, returns = facts["length"], facts["return"]
    normalized = facts["normalized"]
    rows = [
        ["source", facts["source"]["description"]],
        ["environment", facts["environment"] or "unknown: name one with --evaluation.env_id"],
        ["transitions", f"{facts['transitions_in']:,} in, {facts['transitions_out']:,} out"],
        [
            "episodes",
            f"{facts['episodes']:,}: {facts['terminated']:,} terminated,"
            f" {facts['truncated']:,} truncated, {facts['without_end']:,} without an end",
        ],
        ["length", f"{length['min']} to {length['max']}, mean {length['mean']:.1f}"],
        ["return", f"{returns['mean']:.1f} ± {returns['std']:.1f}"],
        ["first returns", ", ".join(f"{value:.1f}" for value in facts["first_returns"])],
    ]
    if normalized:
        rows.append(["normalized", f"mean {normalized['mean']:.1f}, best {normalized['best']:.1f}"])
    rows.append(["store", f"{facts['store']} ({facts['bytes'] / 1e6:.1f} MB, memory-mapped)"])
    rows.append(
        [
            "targets",
            "suggested: " + ", ".join(f"{t:,.0f}" for t in facts["suggested_targets"]),
        ]
    )
    width = max(len(label) for label, _ in rows)
    text = "\n".join(f"{label.ljust(width)}  {terminal(str(value))}" for label, value in rows)
    quantiles = facts["return_quantiles"]
    columns = [
        [name, str(c["shape"]), c["dtype"], f"{c['min']:.4g}", f"{c['max']:.4g}"]
        for name, c in facts["columns"].items()
    ]
    findings = [
        f"{f['level'].ljust(len('warning'))}  {f['check'].ljust(24)}  {terminal(f['detail'])}"
        for f in facts["findings"]
    ]
    return "\n\n".join(
        [
            f"{terminal(facts['name'])}\n{text}",
            table(
                ["return quantile", *quantiles],
                [["", *(f"{value:.1f}" for value in quantiles.values())]],
            ),
            _histogram(**facts["return_histogram"]),
            table(["column", "shape", "dtype", "min", "max"], columns),
            "\n".join(findings),
        ]
    )


def _histogram(counts: Sequence[int], edges: Sequence[float]) -> str:
    """A histogram as bars of characters, one row per bin."""
    longest = max(counts)
    lines = [
        f"{low:>10.1f} to {high:>10.1f}  {count:>7,}  {'█' * round(40 * count / longest)}".rstrip()
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return "\n".join(["episodes by return", *lines])
