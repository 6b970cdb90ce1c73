"""`decision-seq train`."""

from __future__ import annotations

import argparse
from typing import Any

from decision_seq.commands.configuration import configure
from decision_seq.commands.console import make_reporter, print_offline, print_scores
from decision_seq.commands.help_text import terminal_width
from decision_seq.commands.parsing import add_run_options, add_verb
from decision_seq.commands.streams import results
from decision_seq.formatting import json_text


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "train",
        run_train,
        "Train a policy on offline data, then roll it out and print its scores.",
        "  decision-seq train --dataset hopper-medium\n"
        "  decision-seq train --config dt/paper --dataset path/to/hopper_medium-v2.hdf5 --seed 1\n"
        "  decision-seq train --output runs/mine --train.steps 5000 --policy.backbone.layers 4\n"
        "  decision-seq train --output runs/mine --resume\n"
        "  ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\\n"
        "      -m decision_seq train --processes 2\n"
        "  decision-seq train --help policy.tt",
        add_help=False,
    )
    parser.add_argument(
        "-h",
        "--help",
        nargs="?",
        const="",
        metavar="NAME",
        help="list the recipes and every key of the configuration, or describe one component or key"
        " in full; as JSON with --json",
    )
    add_run_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="must",
        default="never",
        choices=["must", "auto", "never"],
        help="resume from the newest checkpoint in --output, by default that of the same options;"
        " `auto`: begin a run if there is none",
    )
    parser.add_argument(
        "--json", action="store_true", help="print scores.json instead of the table"
    )


def run_train(options: argparse.Namespace) -> int:
    if options.help is not None:
        return _help(options)
    from decision_seq.runs import experiment
    from decision_seq.training import Interrupted

    reporter = make_reporter()
    config, output = configure(options)
    try:
        finished = experiment.train(
            config, output, options.resume, options.processes, reporter, options.arguments
        )
    except Interrupted as stop:
        reporter.say(
            f"decision-seq: stopped by signal {stop.number}; {stop};"
            f" go on with: decision-seq train --output {output} --resume"
        )
        return 128 + stop.number
    reporter.say(f"written: {output}/")
    if finished is not None and finished.scores is not None:  # else not the main process
        print_scores(finished.scores, options.json)
    if finished is not None and finished.offline is not None and not options.json:
        print_offline(finished.offline)
    return 0


def _help(options: argparse.Namespace) -> int:
    from decision_seq.commands.configuration_help import help_parts, help_tree

    if options.json:
        print(json_text(help_tree(options.help)), file=results())
        return 0
    base = options.parser.format_help()
    for part in help_parts(base, options.help, terminal_width()):
        print(part, file=results(), flush=True)
    return 0
