"""`decision-seq report`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter
from decision_seq.commands.parsing import add_verb


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
        help="runs' folders, or folders that hold some, down to three levels",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write report.md, report.json and the plots there",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def run_report(options: argparse.Namespace) -> int:
    import numpy as np

    from decision_seq.report.folder import write_report
    from decision_seq.report.markdown import main_text, make_report, report_json
    from decision_seq.report.runs import find_runs
    from decision_seq.types import UserError

    reporter = make_reporter()
    runs, unfinished = find_runs(options.folders)
    if not runs:
        raise UserError(f"no finished run to report: {'; '.join(unfinished)}")
    rng = np.random.default_rng(0)  # so that the same runs give the same report
    report = make_report(runs, unfinished, rng)
    if options.output is not None:
        for path in write_report(report, options.output, rng):
            reporter.say(f"written: {path}")
    print(json.dumps(report_json(report), indent=1) if options.json else main_text(report))
    return 0
