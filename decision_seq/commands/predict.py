"""`decision-seq predict ...`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter, show_finding
from decision_seq.commands.parsing import add_finding, add_verb, folder_to_write


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "predict",
        run_predict,
        "Predict how episodes of the data continue, and compare with their true continuation.",
        "  decision-seq predict runs/mine\n"
        "  decision-seq predict runs/mine --steps 300 --episodes 20 --output figures\n"
        "  decision-seq predict runs/mine --dataset path/to/hopper_medium-v2.hdf5 --json",
    )
    parser.add_argument(
        "path", type=Path, metavar="DIR", help="a Trajectory Transformer's run or checkpoint"
    )
    parser.add_argument("--steps", type=int, default=100, help="steps predicted (default 100)")
    parser.add_argument("--episodes", type=int, default=8, help="episodes predicted (default 8)")
    parser.add_argument(
        "--samples", type=int, default=16, help="predictions drawn per episode (default 16)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the episodes and draws (default 0)"
    )
    parser.add_argument("--dataset", help="name or path of the data (default: as trained)")
    add_finding(parser, "prediction")


def run_predict(options: argparse.Namespace) -> int:
    from decision_seq.analysis.model_error import predict_checkpoint
    from decision_seq.analysis.model_error_report import plot_prediction, prediction_text

    folder = folder_to_write(options.path, options.output)
    found = predict_checkpoint(
        options.path,
        options.dataset,
        options.steps,
        options.episodes,
        options.samples,
        options.seed,
        options.device,
        reporter=make_reporter(),
    )
    text = None if options.json else prediction_text
    show_finding(found, "prediction", folder, text, plot_prediction)
    return 0
