"""`decision-seq evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter, print_offline, print_scores
from decision_seq.commands.parsing import add_checkpoint, add_verb, folder_to_write
from decision_seq.commands.streams import results
from decision_seq.formatting import json_text
from decision_seq.types import UserError

CALIBRATION_POINTS = 11


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "evaluate",
        run_evaluate,
        "Roll out a checkpoint and print its scores; the dataset is not needed. The result is kept"
        " in the run's evaluations/, and `report` compares it.",
        "  decision-seq evaluate runs/mine\n"
        "  decision-seq evaluate runs/mine/checkpoints/step-00003000 --target 3600 1800 \\\n"
        "      --episodes 100\n"
        "  decision-seq evaluate runs/mine --target max q99 median\n"
        "  decision-seq evaluate runs/tt --planner beams=8 horizon=5\n"
        "  decision-seq evaluate runs/mine --calibrate --episodes 20 --output figures\n"
        "  decision-seq evaluate runs/mine --video films\n"
        "  decision-seq evaluate runs/mine --offline",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--target",
        type=_target,
        nargs="+",
        help="target returns, raw, or max, median, q0 to q100 for a percentile of the data's"
        " returns (default: the run's)",
    )
    parser.add_argument("--episodes", type=int, help="episodes per target (default: the run's)")
    parser.add_argument(
        "--seed", type=int, help="episode i starts from seed + i (default: the run's)"
    )
    parser.add_argument("--env", help="a Gymnasium id (default: the run's)")
    parser.add_argument(
        "--max-episode-steps",
        type=int,
        metavar="N",
        help="truncate episodes after N steps (default: the run's, else the environment's limit)",
    )
    parser.add_argument(
        "--device", help="device of the policy (default: CUDA if available, else CPU)"
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        help="precision of the policy's matrix products (default: the run's)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="temperature of the draws of discrete actions and of plans' tokens; 0 takes the"
        " likeliest (default: the run's)",
    )
    parser.add_argument(
        "--planner",
        nargs="+",
        action="extend",
        metavar="KEY=VALUE",
        help="for a policy that plans: changes to its policy.planner",
    )
    parser.add_argument(
        "--environments",
        type=int,
        help="environments stepped together in a process; do not affect scores",
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default one a core); do not affect scores"
    )
    parser.add_argument(
        "--calibrate",
        type=int,
        nargs="?",
        const=CALIBRATION_POINTS,
        metavar="N",
        help="roll out at N targets, from the data's lowest return to beyond its highest"
        f" (default {CALIBRATION_POINTS}); writes calibration.json and calibration.png",
    )
    parser.add_argument(
        "--output", type=Path, help="with --calibrate: folder for its files (default DIR)"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="no rollout: measure action errors on the episodes that training held out (held_out)",
    )
    parser.add_argument(
        "--dataset", help="with --offline: name or path of the data (default: as trained)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--video", type=Path, metavar="FOLDER", help="film the first episodes")
    parser.add_argument(
        "--video-episodes", type=int, metavar="N", help="with --video: episodes filmed (default 1)"
    )
    parser.add_argument(
        "--no-record", action="store_true", help="do not keep the result in evaluations/"
    )


def _target(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


ASKED = ("target", "episodes", "seed", "env", "precision", "temperature", "planner")
ROLLOUT = (*ASKED, "max_episode_steps", "environments", "workers", "video")
EXCLUDED = {"offline": (*ROLLOUT, "calibrate"), "calibrate": ("target", "video")}
NEEDED = {"dataset": "offline", "output": "calibrate", "video_episodes": "video"}


def _check(options: argparse.Namespace) -> None:
    """UserError for options that would have no effect together."""
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    for chosen in given & EXCLUDED.keys():
        for name in (name for name in EXCLUDED[chosen] if name in given):
            raise UserError(f"--{name} means nothing with --{chosen}; leave one of them out")
    for name in given & NEEDED.keys() - {n for n, needed in NEEDED.items() if needed in given}:
        raise UserError(f"--{name.replace('_', '-')} is for --{NEEDED[name]}; add that")


def run_evaluate(options: argparse.Namespace) -> int:
    _check(options)
    if options.offline:
        return _measure_offline(options)
    from decision_seq.envs import trust
    from decision_seq.evaluation import open_checkpoint
    from decision_seq.report import scores_json
    from decision_seq.runs.records import Found

    trust(options.env or "")
    reporter = make_reporter()
    opened = open_checkpoint(
        options.path,
        options.device,
        _planner(options.planner or []),
        reporter,
        targets=options.target,
        episodes=options.episodes,
        seed=options.seed,
        env_id=options.env,
        max_episode_steps=options.max_episode_steps,
        precision=options.precision,
        temperature=options.temperature,
        environments=options.environments,
        workers=options.workers,
    )
    if options.calibrate is not None:
        return _calibrate(options, opened)
    studio = _studio(options, opened)
    scores = opened.scores(reporter)
    steps = sum(sum(target.lengths) for target in scores.targets)
    reporter.say(
        f"{steps:,} environment steps, {scores.env_steps_per_second:,.0f} a second"
        f" ({opened.evaluation.precision}, {opened.processes} process(es) on {opened.device})"
    )
    print_scores(scores, options.json)
    found = Found.by_rollouts("rollout", opened, scores_json(scores))
    _keep(options, found, opened.device, opened.processes)
    if studio is not None:
        studio.film(scores)
    return 0


def _planner(settings: list[str]) -> dict[str, Any]:
    from decision_seq.config import setting

    given: dict[str, Any] = {}
    for text in settings:
        ((key, value),) = setting("--planner", text, "beams=8").items()
        if key in given:
            raise UserError(f"--planner {key} is given twice; leave one of them out")
        given[key] = value
    return given


def _measure_offline(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from decision_seq.checkpoint import read_trainer
    from decision_seq.evaluation import compute_device
    from decision_seq.runs.offline import offline_checkpoint
    from decision_seq.runs.records import Found

    measured = offline_checkpoint(
        options.path, options.dataset, options.device, reporter=make_reporter()
    )
    print_offline(measured, options.json)
    path, protocol = Path(measured.checkpoint), {"data": measured.source}
    found = Found("offline", path, read_trainer(path)["step"], protocol, asdict(measured))
    _keep(options, found, compute_device(options.device))
    return 0


def _keep(options: argparse.Namespace, found: Any, device: Any, processes: int = 1) -> None:
    """Write the record of a result, unless the user leaves it out."""
    if options.no_record:
        return
    from decision_seq.runs.provenance import Launched
    from decision_seq.runs.records import keep

    keep(found, Launched.now(options.arguments, processes, device), make_reporter())


def _calibrate(options: argparse.Namespace, opened: Any) -> int:
    from decision_seq.evaluation import calibrate
    from decision_seq.report import calibration_text, write_json
    from decision_seq.report.plots import plot_calibration
    from decision_seq.runs.records import Found

    reporter = make_reporter()
    folder = folder_to_write(options.path, options.output)
    found = calibrate(opened, options.calibrate, reporter)
    text = json_text(found) if options.json else calibration_text(found)
    print(text, file=results(), flush=True)
    targets = [point["target"] for point in found["points"]]
    record = Found.by_rollouts("calibration", opened, found, targets)
    _keep(options, record, opened.device, opened.processes)
    write_json(folder / "calibration.json", found)
    plot_calibration(found, folder / "calibration.png")
    reporter.say(f"written: {folder}/calibration.json, calibration.png")
    return 0


def _studio(options: argparse.Namespace, opened: Any) -> Any:
    """The studio if --video is given, made before the evaluation so that faults show early."""
    if options.video is None:
        return None
    from decision_seq.evaluation.video import Studio

    episodes = 1 if options.video_episodes is None else options.video_episodes
    return Studio(opened, options.video, episodes, make_reporter())
