"""`decision-seq bench ...`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter
from decision_seq.commands.parsing import (
    Parser,
    add_checkpoint,
    add_common,
    add_verb,
    folder_to_write,
)
from decision_seq.commands.streams import results
from decision_seq.formatting import json_text
from decision_seq.types import UserError

Text = Callable[[dict[str, Any]], str]


def add(verbs: Any) -> None:
    bench = verbs.add_parser(
        "bench",
        help="Measure speed against other programs, start-up, scaling, time to a score, intervals.",
        description="Measurements. Quote the ratios of interleaved rounds: times depend on the"
        " machine, which is printed, and on its other load.",
        epilog="Examples:\n  decision-seq bench train\n  decision-seq bench startup --help",
    )
    add_common(bench, argparse.SUPPRESS)
    parts = bench.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="PART")
    _add_train(parts)
    _add_steps(parts)
    _add_sample(parts)
    _add_evaluate(parts)
    _add_plan(parts)
    _add_startup(parts)
    _add_growth(parts)
    _add_time_to_score(parts)
    _add_intervals(parts)


def _part(
    parts: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
    rounds: int | None = None,
    threads: bool = True,
) -> argparse.ArgumentParser:
    """The parser of a part; rounds: the default of --rounds, None for a part without rounds."""
    parser = add_verb(parts, name, run, what, example)
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help=f"interleaved rounds (default {rounds})"
        )
        if threads:
            parser.add_argument("--threads", type=int, help="torch's threads (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


def _show(options: argparse.Namespace, result: dict[str, Any], text: Text) -> int:
    from decision_seq.bench.timing import machine_text

    if options.json:
        print(json_text(result), file=results())
    else:
        print(f"{machine_text(result['machine'])}\n\n{text(result)}")
    return 0


def _add_train(parts: Any) -> None:
    _part(
        parts,
        "train",
        run_train,
        "Time an update of the paper's model, of transformers' model, and of the matrix products"
        " alone; also prints a row for a speed record.",
        "  decision-seq bench train\n  decision-seq bench train --rounds 30 --threads 2 --json",
        rounds=15,
    )


def run_train(options: argparse.Namespace) -> int:
    from decision_seq.bench.training import bench_text, bench_train

    result = bench_train(options.rounds, options.threads, make_reporter())
    return _show(options, result, bench_text)


def _add_steps(parts: Any) -> None:
    parser = _part(
        parts,
        "steps",
        run_steps,
        "Time whole training steps from a store, and those of transformers' model fed by a loop;"
        " also prints the share of a step that is spent on data.",
        "  decision-seq bench steps\n  decision-seq bench steps --frames --rounds 5",
        rounds=15,
    )
    parser.add_argument(
        "--frames", action="store_true", help="use the Atari recipe and a store of frames"
    )


def run_steps(options: argparse.Namespace) -> int:
    from decision_seq.bench.steps import bench_frame_steps, bench_steps, steps_text

    measure = bench_frame_steps if options.frames else bench_steps
    return _show(options, measure(options.rounds, options.threads, make_reporter()), steps_text)


def _add_sample(parts: Any) -> None:
    parser = _part(
        parts,
        "sample",
        run_sample,
        "Measure a store: the time to open it, its memory, and windows per second.",
        "  decision-seq bench sample --transitions 20000000\n"
        "  decision-seq bench sample --frames\n"
        "  decision-seq bench sample --frames --store atari/Breakout",
    )
    parser.add_argument(
        "--transitions",
        type=int,
        default=1_000_000,
        help="size of the generated store (default 1000000); 64 bytes each on disk",
    )
    parser.add_argument("--frames", action="store_true", help="measure a store of frames instead")
    parser.add_argument(
        "--store", metavar="NAME", help="with --frames: use this dataset, not a generated one"
    )


def run_sample(options: argparse.Namespace) -> int:
    if options.store is not None and not options.frames:
        raise UserError("--store is for `bench sample --frames`; add that")
    if options.frames:
        from decision_seq.bench.frame_store import bench_frames, frames_text

        result = bench_frames(options.transitions, options.store, make_reporter())
        return _show(options, result, frames_text)
    from decision_seq.bench.sampling import bench_sampling, sampling_text

    return _show(options, bench_sampling(options.transitions, make_reporter()), sampling_text)


def _add_evaluate(parts: Any) -> None:
    parser = _part(
        parts,
        "evaluate",
        run_evaluate,
        "Time a checkpoint's rollouts, and the original program's, which has one environment.",
        "  decision-seq bench evaluate runs/mine --episodes 100\n"
        "  decision-seq bench evaluate runs/mine --precisions bf16",
    )
    add_checkpoint(parser)
    parser.add_argument("--episodes", type=int, default=100, help="per target (default 100)")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["fp32", "bf16"],
        default=["fp32", "bf16"],
        help="precisions of our rollouts (default both)",
    )


def run_evaluate(options: argparse.Namespace) -> int:
    from decision_seq.bench.evaluation import bench_evaluation, evaluation_text

    precisions = list(dict.fromkeys(options.precisions))
    result = bench_evaluation(options.path, options.episodes, precisions, make_reporter())
    return _show(options, result, evaluation_text)


def _add_plan(parts: Any) -> None:
    _part(
        parts,
        "plan",
        run_plan,
        "Time the Trajectory Transformer's planning with and without a cache, and its parts.",
        "  decision-seq bench plan\n  decision-seq bench plan --rounds 5 --threads 1",
        rounds=3,
    )


def run_plan(options: argparse.Namespace) -> int:
    from decision_seq.bench.planning import bench_planning, planning_text

    result = bench_planning(options.rounds, options.threads, make_reporter())
    return _show(options, result, planning_text)


def _add_startup(parts: Any) -> None:
    parser = _part(
        parts,
        "startup",
        run_startup,
        "Time a fresh process until it prints its help, trains its first update, and takes its"
        " first step of a rollout.",
        "  decision-seq bench startup\n"
        "  decision-seq bench startup runs/mine --dataset hopper-medium --rounds 10",
        rounds=5,
        threads=False,
    )
    parser.add_argument(
        "path",
        type=Path,
        metavar="DIR",
        nargs="?",
        help="a run's folder or one of its checkpoints, to roll out (default: a generated one)",
    )
    parser.add_argument(
        "--dataset", help="dataset to train on (default: random numbers with Hopper's sizes)"
    )


def run_startup(options: argparse.Namespace) -> int:
    from decision_seq.bench.startup import bench_startup, startup_text

    result = bench_startup(options.rounds, options.dataset, options.path, make_reporter())
    return _show(options, result, startup_text)


def _add_growth(parts: Any) -> None:
    parser = _part(
        parts,
        "growth",
        run_growth,
        "Measure how an update's time, peak memory and FLOPs grow with context, width and batch;"
        " draws growth.png.",
        "  decision-seq bench growth --output figures\n"
        "  decision-seq bench growth --contexts 20 100 --widths 128 --batches 64 --rounds 3",
        rounds=5,
    )
    for name, what in (
        ("contexts", "context lengths (default 20 to 500)"),
        ("widths", "model widths (default 128 to 1024)"),
        ("batches", "batch sizes (default 16 to 256)"),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help=what)
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder for growth.png (default: this one)"
    )


def run_growth(options: argparse.Namespace) -> int:
    from decision_seq.bench.growth import PLOT, bench_growth, growth_text, plot_growth

    folder = folder_to_write(options.output, options.output)
    reporter = make_reporter()
    sizes = {
        name: getattr(options, name)
        for name in ("contexts", "widths", "batches")
        if getattr(options, name) is not None
    }
    result = bench_growth(options.rounds, options.threads, **sizes, reporter=reporter)
    _show(options, result, growth_text)
    plot_growth(result, folder / PLOT)
    reporter.say(f"written: {folder / PLOT}")
    return 0


def _add_time_to_score(parts: Any) -> None:
    parser = _part(
        parts,
        "time-to-score",
        run_time_to_score,
        "Print the scores and update times of finished runs, by recipe; trains nothing.",
        "  decision-seq bench time-to-score runs/default runs/paper\n"
        "  decision-seq bench time-to-score runs --score 60",
    )
    parser.add_argument(
        "paths",
        type=Path,
        metavar="DIR",
        nargs="+",
        help="folders of runs, or folders that hold such folders",
    )
    parser.add_argument(
        "--score", type=float, help="also print when the mean over seeds first reached this score"
    )


def run_time_to_score(options: argparse.Namespace) -> int:
    from decision_seq.bench.time_to_score import bench_scores, scores_text

    return _show(options, bench_scores(options.paths, options.score, make_reporter()), scores_text)


def _add_intervals(parts: Any) -> None:
    parser = _part(
        parts,
        "intervals",
        run_intervals,
        "Simulate how often the intervals of `report` contain the true value.",
        "  decision-seq bench intervals\n  decision-seq bench intervals --draws 20000",
    )
    parser.add_argument(
        "--draws", type=int, default=2_000, help="simulated experiments per row (default 2000)"
    )


def run_intervals(options: argparse.Namespace) -> int:
    from decision_seq.bench.intervals import bench_intervals, intervals_text

    return _show(options, bench_intervals(options.draws, make_reporter()), intervals_text)
