"""`decision-seq report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter
from decision_seq.commands.parsing import add_verb
from decision_seq.commands.streams import results
from decision_seq.formatting import json_text
from decision_seq.types import Reporter, UserError


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "report",
        run_report,
        "Compare finished runs with each other and with published numbers.",
        "  decision-seq report runs\n"
        "  decision-seq report runs/dt-0 runs/dt-1 runs/bc-0 --output comparison\n"
        "  decision-seq report runs --json",
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of runs, or folders that hold such folders, down to three levels",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for report.md, report.json and the plots",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def run_report(options: argparse.Namespace) -> int:
    return print_report(options.folders, options.output, make_reporter(), options.json)


def print_report(
    folders: Sequence[Path], output: Path | None, reporter: Reporter, as_json: bool = False
) -> int:
    """Compare the runs in `folders`, write the report to `output` if given -> the exit code."""
    import numpy as np

    from decision_seq.report.markdown import main_text, make_report, report_json
    from decision_seq.report.runs import find_runs
    from decision_seq.report.writing import write_report

    runs, unfinished = find_runs(folders)
    if not runs:
        raise UserError(f"no finished run to report: {'; '.join(unfinished)}")
    rng = np.random.default_rng(0)  # so that the same runs give the same report
    report = make_report(runs, unfinished, rng)
    if output is not None:
        for path in write_report(report, output, rng):
            reporter.say(f"written: {path}")
    print(json_text(report_json(report)) if as_json else main_text(report), file=results())
    return 0
