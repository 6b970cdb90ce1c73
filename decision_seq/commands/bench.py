"""`decision-seq bench ...`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter
from decision_seq.commands.parsing import add_verb
from decision_seq.types import UserError


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "bench",
        run_bench,
        "Measure: an update's speed beside a peer's, a large store's, what intervals are worth.",
        "  decision-seq bench train\n"
        "  decision-seq bench train --rounds 30 --json\n"
        "  decision-seq bench steps\n"
        "  decision-seq bench planning --rounds 5\n"
        "  decision-seq bench rollouts --checkpoint runs/hopper-medium-dt-seed0 --episodes 100\n"
        "  decision-seq bench data --transitions 20000000\n"
        "  decision-seq bench data --frames --store atari/Breakout\n"
        "  decision-seq bench intervals",
    )
    parser.add_argument(
        "what",
        choices=["train", "steps", "planning", "data", "rollouts", "intervals"],
        help="train: one update, against transformers' model in interleaved rounds; steps: whole"
        " training steps, against it fed by a loop; planning: the Trajectory Transformer's plans,"
        " against those without a cache; data: opening, memory and windows a second of a store;"
        " rollouts: a checkpoint's episodes, against the original's procedure; intervals: how often"
        " those of `report` hold the truth, by simulation",
    )
    parser.add_argument("--rounds", type=int, default=15, help="of train, steps and planning")
    parser.add_argument(
        "--threads", type=int, help="of torch, for train, steps and planning (default: one a core)"
    )
    parser.add_argument(
        "--transitions", type=int, default=1_000_000, help="of data; 64 bytes each on the disk"
    )
    parser.add_argument("--frames", action="store_true", help="of data: a store of frames instead")
    parser.add_argument(
        "--store", metavar="NAME", help="of data --frames: this dataset, not one made for it"
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="of rollouts: a run or a checkpoint"
    )
    parser.add_argument("--episodes", type=int, default=100, help="of rollouts, for each target")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["fp32", "bf16"],
        default=["fp32", "bf16"],
        help="of rollouts: ours (default both)",
    )
    parser.add_argument(
        "--draws", type=int, default=2_000, help="of intervals: simulated experiments a row"
    )
    parser.add_argument("--json", action="store_true")


def run_bench(options: argparse.Namespace) -> int:
    if options.frames and options.what != "data":
        raise UserError("--frames is for `bench data`")
    if options.store is not None and not options.frames:
        raise UserError("--store is for `bench data --frames`; add that")
    if options.what == "data" and options.frames:
        from decision_seq.bench.frames import bench_frames, frames_text

        result = bench_frames(options.transitions, options.store, make_reporter())
        text = frames_text
    elif options.what == "data":
        from decision_seq.bench.data import bench_data, data_text

        result, text = bench_data(options.transitions, make_reporter()), data_text
    elif options.what == "intervals":
        from decision_seq.bench.intervals import bench_intervals, intervals_text

        result, text = bench_intervals(options.draws, make_reporter()), intervals_text
    elif options.what == "steps":
        from decision_seq.bench.steps import bench_steps, steps_text

        result, text = bench_steps(options.rounds, options.threads, make_reporter()), steps_text
    elif options.what == "planning":
        from decision_seq.bench.planning import bench_planning, planning_text

        result = bench_planning(options.rounds, options.threads, make_reporter())
        text = planning_text
    elif options.what == "rollouts":
        from decision_seq.bench.rollouts import bench_rollouts, rollouts_text

        if options.checkpoint is None:
            raise UserError("bench rollouts needs --checkpoint, a trained run")
        result = bench_rollouts(
            options.checkpoint, options.episodes, options.precisions, make_reporter()
        )
        text = rollouts_text
    else:
        from decision_seq.bench.training import bench_text, bench_train

        result, text = bench_train(options.rounds, options.threads, make_reporter()), bench_text
    print(json.dumps(result, indent=1) if options.json else text(result))
    return 0
