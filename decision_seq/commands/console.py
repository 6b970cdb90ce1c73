"""Console output of a command: messages, progress bars, scores; which process prints them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from decision_seq.commands.streams import results
from decision_seq.escaping import terminal
from decision_seq.formatting import json_text
from decision_seq.types import Bar, Reporter, UserError

BAD_INPUT = 2


class Console(Reporter):
    """A reporter that prints to standard error, so that standard output holds only results."""

    def __init__(self) -> None:
        self._bars = 0

    def say(self, line: str) -> None:
        line = terminal(line)
        if self._bars:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)  # above the bar, so that the bar stays intact
        else:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, what: str, unit: str, total: int, initial: int = 0) -> Iterator[Bar]:
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        with tqdm(
            total=total,
            initial=initial,
            desc=terminal(what),
            unit=f" {unit}",
            unit_scale=total >= 10_000,
            dynamic_ncols=interactive,
            ncols=None if interactive else 100,
            mininterval=0.2 if interactive else 15.0,  # few lines in a log
        ) as bar:
            if not interactive:  # a new postfix waits for the bar's next line
                bar.set_postfix_str = partial(bar.set_postfix_str, refresh=False)
            self._bars += 1
            try:
                yield bar
            finally:
                self._bars -= 1


def make_reporter() -> Reporter:
    return Console() if is_main_rank() else Reporter()


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


def is_main_rank() -> bool:
    # A RANK left over in a shell must not silence a single process.
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def error_prefix(error: UserError) -> str | None:
    """The prefix of an error's line on this process; None where another process prints it."""
    if is_main_rank():
        return ""
    if "torch" not in sys.modules:
        return None
    from decision_seq.train.launch import OfOneRank

    return f"rank {os.environ['RANK']}: " if isinstance(error, OfOneRank) else None


def print_offline(scores: Any, as_json: bool = False) -> None:
    from dataclasses import asdict

    from decision_seq.evaluate.held_out import offline_text

    text = json_text(asdict(scores)) if as_json else f"\n{offline_text(scores)}"
    print(text, file=results())


def print_scores(scores: Any, as_json: bool) -> None:
    from decision_seq.report import score_table, scores_json

    print(
        json_text(scores_json(scores)) if as_json else f"\n{score_table(scores)}",
        file=results(),
        flush=True,
    )
