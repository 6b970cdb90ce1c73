"""`decision-seq doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from decision_seq.commands.configuration import configure
from decision_seq.commands.console import BAD_INPUT, is_main_rank, make_reporter
from decision_seq.commands.parsing import add_run_options, add_verb
from decision_seq.commands.streams import results
from decision_seq.formatting import json_text


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "doctor",
        run_doctor,
        "Check, before a long job, that this launch would train correctly; begins no run.",
        "  decision-seq doctor --dataset hopper-medium --output runs/mine\n"
        "  decision-seq doctor --config dt/paper --train.batch_size 512 --json\n"
        "  ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\\n"
        "      -m decision_seq doctor --processes 2\n\n"
        "Use the launcher and the options of the job itself. Exit code 2 if a check fails.",
        resume="never",
    )
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run_doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from decision_seq import doctor

    config, output = configure(options)
    checks = doctor.examine(config, output, options.processes, make_reporter())
    if is_main_rank():
        rows = [asdict(check) for check in checks]
        print(json_text(rows) if options.json else doctor.checks_text(checks), file=results())
    return BAD_INPUT if doctor.failed(checks) else 0
