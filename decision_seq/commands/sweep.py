"""`decision-seq sweep`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import BAD_INPUT, make_reporter
from decision_seq.commands.parsing import add_verb
from decision_seq.types import Reporter, UserError


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "sweep",
        run_sweep,
        "Train all unfinished runs of a grid, then compare the runs.",
        "  decision-seq sweep gym-medium --dry-run\n"
        "  decision-seq sweep gym-medium --jobs 2 --seeds 3 --set train.steps=1000\n"
        "  decision-seq sweep my/grid.yaml --output runs/mine --slurm --partition gpu \\\n"
        "      --time 240 --sbatch gpus-per-node=1 cpus-per-task=8 account=me\n\n"
        "When interrupted it saves its runs. The same command resumes them, and failed ones too.\n"
        "OUTPUT/RUN.log holds the output of a run.",
    )
    parser.add_argument("file", metavar="FILE", help="a grid's YAML file, or the name of a table")
    parser.add_argument(
        "--output", type=Path, help="folder for the runs' folders (default runs/FILE)"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="keys of the configuration for every run; they override the grid's",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="use seeds 0 to N - 1, not the grid's"
    )
    parser.add_argument(
        "--jobs", type=int, help="runs trained at a time on this machine (default 1)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only list the runs and their progress"
    )
    slurm = parser.add_argument_group("on a cluster")
    slurm.add_argument("--slurm", action="store_true", help="submit the runs as jobs, and wait")
    slurm.add_argument("--partition", help="partition of the jobs")
    slurm.add_argument(
        "--time", type=int, metavar="MINUTES",
        help="time limit of a job (default 240); a longer run is queued again and resumed",
    )  # fmt: skip
    slurm.add_argument(
        "--sbatch", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="other options of sbatch",
    )  # fmt: skip


def run_sweep(options: argparse.Namespace) -> int:
    from decision_seq import sweep
    from decision_seq.recipes import table_path

    _check(options)
    path = table_path(options.file)
    runs = sweep.read_grid(path, options.set, options.seeds)
    output = options.output or Path("runs") / path.stem
    if options.dry_run:
        plan = sweep.examine_folders(runs, output)
        for run in runs:
            print(f"{plan.progress.get(run.name, 'refused').ljust(8)}  {run.name}")
        return _failures(plan.refused)
    launcher = _launcher(options, output)
    reporter = make_reporter()
    with sweep.folder(output):
        sweep.keep_grid(path, output, options.set, options.seeds)
        plan = sweep.examine(runs, output, reporter)
        failed = sweep.sweep(runs, output, plan, launcher(reporter), reporter)
    rolled_out = any(config.evaluation.episodes for config in plan.resolved.values())
    reported = _report(output, reporter) if rolled_out and len(failed) < len(runs) else 0
    return _failures(failed) or reported


def _check(options: argparse.Namespace) -> None:
    """UserError for options that contradict each other."""
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} asked for; at least 1 is needed")
    if options.slurm and options.jobs is not None:
        raise UserError("--jobs is for this machine; under --slurm the cluster's limits hold")
    if not options.slurm and (options.partition or options.time is not None or options.sbatch):
        raise UserError("--partition, --time and --sbatch are for --slurm; add it")


def _launcher(options: argparse.Namespace, output: Path) -> Any:
    """A function from a reporter to `sweep.sweep`'s `launcher`; UserError without a scheduler."""
    from decision_seq.sweep.local import Local
    from decision_seq.sweep.slurm import Submitted, slurm

    if not options.slurm:
        return lambda reporter: lambda _: Local(output, options.jobs or 1, reporter)
    minutes = 240 if options.time is None else options.time
    cluster = slurm(output / "slurm", options.partition, minutes, options.sbatch)
    return lambda reporter: lambda done: Submitted(output, cluster, done, reporter)


def _failures(failed: dict[str, str]) -> int:
    """Report the failed runs -> the exit code."""
    reporter = make_reporter()
    for name, reason in failed.items():
        reporter.say(f"decision-seq: {name}: {reason}")
    return BAD_INPUT if failed else 0


def _report(folder: Path, reporter: Reporter) -> int:
    """Report on the runs in `folder` -> the exit code."""
    from decision_seq.commands.report import print_report

    return print_report([folder], folder / "report", reporter)
