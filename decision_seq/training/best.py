"""Record of the best checkpoint by the evaluations during training, saved with the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decision_seq.config import save_text
from decision_seq.formatting import json_text
from decision_seq.reading import Absent, Kinds, Unreadable, read_record
from decision_seq.types import TargetScore, UserError

BEST = "best.json"
KINDS: Kinds = {"step": int, "return_mean": float, "target": (float, type(None))}


def note(folder: Path, step: int, score: TargetScore) -> None:
    """Record the checkpoint if its mean return at the first target is the highest so far."""
    best = read(folder)
    better = best is None or score.return_mean > best["return_mean"]
    if best is None or best["target"] != score.target or better:  # only equal targets compare
        rule = "highest mean return at the first target among the evaluations during training"
        found = {"rule": rule, "target": score.target, "return_mean": score.return_mean}
        save_text(folder / BEST, json_text({"step": step, **found}))


def read(folder: Path) -> dict[str, Any] | None:
    """The best checkpoint's step, return and rule; None where none is recorded."""
    try:
        return read_record(folder / BEST, KINDS)
    except Absent:
        return None
    except Unreadable as error:
        raise UserError(f"{folder / BEST} is damaged; remove it: it {error.reason}") from error
