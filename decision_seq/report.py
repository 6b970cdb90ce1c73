"""Results as people read them: aligned tables; and as programs do: JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decision_seq.types import Scores, UserError


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned, the first to the left and the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def score_table(scores: Scores) -> str:
    """The score table with all that a score needs to be understood."""
    rows = []
    for target in scores.targets:
        interval = target.interval_95
        score = target.normalized_score
        rows.append(
            [
                f"{target.target:,.0f}",
                f"{target.return_mean:,.1f} ± {target.return_std:,.1f}",
                "-" if score is None else f"{score:.1f}",
                "-" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]",
                f"{sum(target.lengths) / len(target.lengths):.0f}",
                str(target.episodes),
            ]
        )
    header = ["target", "return (mean ± std)", "normalized", "95 % interval", "length", "episodes"]
    lines = [
        f"dataset      {scores.dataset}",
        f"source       {scores.source}",
        f"environment  {scores.env_id}",
        f"checkpoint   {scores.checkpoint}",
        *(f"note         {note}" for note in scores.notes),
        "",
        table(header, rows),
    ]
    return "\n".join(lines)


def write_json(path: Path, value: Any) -> None:
    """Write beside the name, then rename; UserError when the disk refuses."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def scores_json(scores: Scores) -> dict[str, Any]:
    """The content of scores.json."""
    return asdict(scores)
