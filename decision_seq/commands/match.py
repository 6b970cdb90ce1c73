"""`decision-seq match ...`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter, show_finding
from decision_seq.commands.parsing import add_checkpoint, add_finding, add_verb, folder_to_write


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "match",
        run_match,
        "Condition a checkpoint on target trajectories, and compare distributions of a feature.",
        "  decision-seq match runs/cdt\n"
        "  decision-seq match runs/cdt --targets 10 --episodes 50 --output figures\n"
        "  decision-seq match runs/bc --feature x_velocity\n"
        "  decision-seq match runs/cdt --splice 0,4\n"
        "  decision-seq match runs/cdt --mixture 0,4\n"
        "  decision-seq match runs/cdt --histogram two-modes.json",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--targets",
        type=int,
        default=5,
        help="number of held-out episodes used as targets, evenly spaced from the least to the"
        " greatest mean of the feature (default 5)",
    )
    parser.add_argument("--episodes", type=int, default=20, help="episodes per target (default 20)")
    parser.add_argument(
        "--feature",
        type=_feature,
        help="reward, x_velocity, or the number of an observation's dimension (default: the feature"
        " that the policy is conditioned on, else x_velocity if it is known, else reward)",
    )
    synthetic = parser.add_mutually_exclusive_group()
    synthetic.add_argument(
        "--histogram",
        type=Path,
        metavar="FILE",
        help="match this instead: a JSON list of shares",
    )
    synthetic.add_argument(
        "--mixture",
        type=_pair,
        metavar="I,J",
        help="match a mixture of two targets instead, the same at every step",
    )
    synthetic.add_argument(
        "--splice",
        type=_pair,
        metavar="I,J",
        help="match the first half of target I, then the second half of target J, instead",
    )
    parser.add_argument(
        "--seed", type=int, help="episode i starts from seed + i (default: the run's)"
    )
    parser.add_argument("--dataset", help="name or path of the data (default: as trained)")
    parser.add_argument("--env", help="a Gymnasium id (default: the run's)")
    parser.add_argument(
        "--workers", type=int, help="processes (default one a core); do not affect distances"
    )
    add_finding(parser, "matching")


def _feature(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    if not (first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of target numbers such as 0,4")
    return int(first), int(second)


def run_match(options: argparse.Namespace) -> int:
    from decision_seq.analysis.hindsight_matching import match_checkpoint
    from decision_seq.analysis.hindsight_matching_report import matching_text, plot_matching
    from decision_seq.envs import trust

    trust(options.env or "")
    folder = folder_to_write(options.path, options.output)
    found = match_checkpoint(
        options.path,
        options.targets,
        options.feature,
        options.histogram,
        options.mixture,
        options.splice,
        options.dataset,
        options.device,
        make_reporter(),
        episodes=options.episodes,
        seed=options.seed,
        env_id=options.env,
        workers=options.workers,
    )
    text = None if options.json else matching_text
    show_finding(found, "matching", folder, text, plot_matching)
    return 0
