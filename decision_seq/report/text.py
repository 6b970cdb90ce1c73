"""Results as aligned text tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decision_seq.config import save_text
from decision_seq.envs import score_name
from decision_seq.escaping import terminal
from decision_seq.formatting import interval_text, json_text, number_text, spread_text, target_text
from decision_seq.types import Scores


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = 1) -> str:
    """A text table: the first `left` columns are aligned left, the others right; None for all."""
    cells = [[terminal(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if left is None or i < left else cell.rjust(width)
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
        score = target.normalized_score
        rows.append(
            [
                target_text(target.target),
                spread_text(target.return_mean, target.return_std),
                "-" if score is None else number_text(score, group=""),
                interval_text(target.interval_95),
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


def calibration_text(calibration: dict[str, Any]) -> str:
    """Table of the results of `evaluation.calibrate`, one row per target."""
    rows = []
    for point in calibration["points"]:
        interval = point["interval_95"] if len(point["returns"]) > 1 else None
        rows.append(
            [
                target_text(point["target"]),
                number_text(point["return_mean"]),
                interval_text(interval, group=","),
                number_text(point["return_mean"] - point["target"], sign="+"),
            ]
        )
    known = calibration["data_return_quantiles"]
    low, median, high = (number_text(known[key]) for key in ("0", "50", "100"))
    about = (
        f"{terminal(', '.join(calibration[key] for key in ('dataset', 'env_id', 'checkpoint')))}\n"
        f"{calibration['episodes']} episodes a target; the data's returns: {low} to {high},"
        f" median {median}"
    )
    return f"{about}\n\n{table(['target', 'return', '95 % interval', 'difference'], rows)}"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; UserError when it cannot be written."""
    save_text(path, json_text(value) + "\n")


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
        ["return", spread_text(returns["mean"], returns["std"], group="")],
        ["first returns", ", ".join(_plain(value) for value in facts["first_returns"])],
    ]
    if normalized:
        mean, best = (_plain(normalized[key]) for key in ("mean", "best"))
        rows.append(["normalized", f"mean {mean}, best {best}"])
    rows.append(["store", f"{facts['store']} ({facts['bytes'] / 1e6:.1f} MB, memory-mapped)"])
    rows.append(
        [
            "targets",
            "suggested: " + ", ".join(target_text(t) for t in facts["suggested_targets"]),
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
                [["", *map(_plain, quantiles.values())]],
            ),
            _histogram(**facts["return_histogram"]),
            table(["column", "shape", "dtype", "min", "max"], columns),
            "\n".join(findings),
        ]
    )


def _plain(value: float) -> str:
    return number_text(value, group="")


def _histogram(counts: Sequence[int], edges: Sequence[float]) -> str:
    """A histogram as bars of characters, one row per bin."""
    longest = max(counts)
    lines = [
        f"{_plain(low):>10} to {_plain(high):>10}  {count:>7,}"
        f"  {'█' * round(40 * count / longest)}".rstrip()
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return "\n".join(["episodes by return", *lines])
