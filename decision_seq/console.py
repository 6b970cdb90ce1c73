"""Messages and progress bars on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from decision_seq.escaping import terminal
from decision_seq.types import Bar, Reporter


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

        interactive, notebook = sys.stderr.isatty(), _is_notebook()
        with tqdm(
            total=total,
            initial=initial,
            desc=terminal(what),
            unit=f" {unit}",
            unit_scale=total >= 10_000,
            dynamic_ncols=interactive,
            ncols=None if interactive else 100,
            mininterval=0.2 if interactive else 1.0 if notebook else 15.0,  # few lines in a log
        ) as bar:
            if not interactive:  # a new postfix waits for the bar's next line
                bar.set_postfix_str = partial(bar.set_postfix_str, refresh=False)
            self._bars += 1
            try:
                yield bar
            finally:
                self._bars -= 1


def _is_notebook() -> bool:
    """Whether a Jupyter kernel shows standard error; it redraws a bar in its place."""
    return type(sys.stderr).__module__.startswith("ipykernel.")


def make_reporter() -> Reporter:
    """A console on the main process of a launch; the other processes print nothing."""
    return Console() if is_main_rank() else Reporter()


def is_main_rank() -> bool:
    # A RANK left over in a shell must not silence a single process.
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"
