"""`decision-seq evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter, print_scores
from decision_seq.commands.parsing import add_verb


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "evaluate",
        run_evaluate,
        "Roll out a checkpoint and print its scores; the dataset is not needed.",
        "  decision-seq evaluate runs/mine\n"
        "  decision-seq evaluate runs/mine/checkpoints/step-00003000 --target 3600 1800 \\\n"
        "      --episodes 100\n"
        "  decision-seq evaluate runs/mine --video films",
    )
    parser.add_argument(
        "path", type=Path, metavar="DIR", help="a run's folder or one of its checkpoints"
    )
    parser.add_argument(
        "--target", type=float, nargs="+", help="raw returns to ask for (default: the run's)"
    )
    parser.add_argument("--episodes", type=int, default=50, help="episodes a target (default 50)")
    parser.add_argument("--seed", type=int, default=10_000, help="episode i starts from seed + i")
    parser.add_argument("--env", help="a Gymnasium id (default: the run's)")
    parser.add_argument("--device", help="where the policy runs (default: CUDA if there, else CPU)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--video", type=Path, metavar="FOLDER", help="film the first episodes")
    parser.add_argument(
        "--video-episodes", type=int, default=1, metavar="N", help="how many (default 1)"
    )


def run_evaluate(options: argparse.Namespace) -> int:
    from decision_seq.envs import trust
    from decision_seq.evaluate import evaluate_checkpoint

    trust(options.env or "")
    studio = _studio(options)
    scores = evaluate_checkpoint(
        options.path,
        targets=options.target,
        episodes=options.episodes,
        seed=options.seed,
        env_id=options.env,
        device=options.device,
        reporter=make_reporter(),
    )
    print_scores(scores, options.json)
    if studio is not None:
        studio.film(scores, options.device)
    return 0


def _studio(options: argparse.Namespace) -> Any:
    """Ready to film, where films are asked for: what is lacking is said before the evaluation."""
    if options.video is None:
        return None
    from decision_seq.video import Studio

    return Studio(
        options.path,
        options.video,
        options.video_episodes,
        options.episodes,
        options.env,
        make_reporter(),
    )
