"""`decision-seq explain ...`."""

from __future__ import annotations

import argparse
from typing import Any

from decision_seq.commands.console import make_reporter, show_finding
from decision_seq.commands.parsing import add_checkpoint, add_finding, add_verb, folder_to_write


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "explain",
        run_explain,
        "Show a policy's running estimate of the return in random episodes, and its attention.",
        "  decision-seq explain runs/key-to-door-predictor\n"
        "  decision-seq explain runs/mine --episodes 300 --event key --stage phase --json",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--episodes", type=int, default=1000, help="episodes of random actions (default 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default 0)")
    parser.add_argument(
        "--event", default="key", help="entry of `info` that becomes true (default key)"
    )
    parser.add_argument(
        "--stage", default="phase", help="entry of `info` that counts stages (default phase)"
    )
    add_finding(parser, "explanation")


def run_explain(options: argparse.Namespace) -> int:
    from decision_seq.analysis.credit_assignment import explain
    from decision_seq.analysis.credit_assignment_report import explanation_text, plot_explanation

    folder = folder_to_write(options.path, options.output)
    found = explain(
        options.path,
        options.episodes,
        options.seed,
        options.event,
        options.stage,
        options.device,
        make_reporter(),
    )
    text = None if options.json else explanation_text
    show_finding(found, "explanation", folder, text, plot_explanation)
    return 0
