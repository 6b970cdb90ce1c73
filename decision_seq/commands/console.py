"""Console output of a command: its messages, its results, and which process prints them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decision_seq.commands.streams import results
from decision_seq.console import is_main_rank, make_reporter
from decision_seq.formatting import json_text
from decision_seq.types import UserError

BAD_INPUT = 2


def show_finding(
    found: dict[str, Any],
    name: str,
    folder: Path,
    text: Callable[[dict[str, Any]], str] | None,
    plot: Callable[[dict[str, Any], Path], None],
) -> None:
    """Print the results, as JSON if `text` is None; write NAME.json and NAME.png into `folder`."""
    from decision_seq.report import write_json

    print(json_text(found) if text is None else text(found), file=results(), flush=True)
    write_json(folder / f"{name}.json", found)
    plot(found, folder / f"{name}.png")
    make_reporter().say(f"written: {folder}/{name}.json, {name}.png")


def error_prefix(error: UserError) -> str | None:
    """The prefix of an error's line on this process; None where another process prints it."""
    if is_main_rank():
        return ""
    if "torch" not in sys.modules:
        return None
    from decision_seq.training.launch import OfOneRank

    return f"rank {os.environ['RANK']}: " if isinstance(error, OfOneRank) else None


def print_offline(scores: Any, as_json: bool = False) -> None:
    from dataclasses import asdict

    from decision_seq.evaluation.held_out import offline_text

    text = json_text(asdict(scores)) if as_json else f"\n{offline_text(scores)}"
    print(text, file=results())


def print_scores(scores: Any, as_json: bool) -> None:
    from decision_seq.report import score_table, scores_json

    print(
        json_text(scores_json(scores)) if as_json else f"\n{score_table(scores)}",
        file=results(),
        flush=True,
    )
