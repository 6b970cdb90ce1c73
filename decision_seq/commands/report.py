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
        "  decision-seq report runs --html report.html\n"
        "  decision-seq report runs --latex scores.tex --csv scores.csv\n"
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
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="one page with tables, curves, films and provenance, which needs no other file",
    )
    parser.add_argument(
        "--latex", type=Path, metavar="FILE", help="the score table as LaTeX (booktabs)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="the scores at all targets, one a line"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def run_report(options: argparse.Namespace) -> int:
    files = {name: getattr(options, name) for name in ("html", "latex", "csv")}
    return print_report(options.folders, options.output, make_reporter(), options.json, **files)


def print_report(
    folders: Sequence[Path],
    output: Path | None,
    reporter: Reporter,
    as_json: bool = False,
    *,
    html: Path | None = None,
    latex: Path | None = None,
    csv: Path | None = None,
) -> int:
    """Compare the runs in `folders`, and print the report -> the exit code.

    output: folder for the report and its plots; html, latex, csv: files for the page and for the
    score table. Each is written if it is given.
    """
    import numpy as np

    from decision_seq.config import save_text
    from decision_seq.report.markdown import main_text, make_report, report_json
    from decision_seq.report.runs import find_runs
    from decision_seq.report.score_files import csv_table, latex_table
    from decision_seq.report.writing import write_report

    runs, unfinished = find_runs(folders)
    if not runs:
        raise UserError(f"no finished run to report: {'; '.join(unfinished)}")
    rng = np.random.default_rng(0)  # so that the same runs give the same report
    report = make_report(runs, unfinished, rng)
    written = [] if output is None else write_report(report, output, rng)
    if html is not None:
        from decision_seq.report.html import write_page

        write_page(report, html, np.random.default_rng(0))
        written.append(html)
    for path, table in ((latex, latex_table), (csv, csv_table)):
        if path is not None:
            save_text(path, table(report.comparison))
            written.append(path)
    for path in written:
        reporter.say(f"written: {path}")
    print(json_text(report_json(report)) if as_json else main_text(report), file=results())
    return 0
