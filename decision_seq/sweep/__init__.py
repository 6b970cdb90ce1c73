"""Many runs from one grid: what is done is skipped, what was interrupted goes on.

A run's folder says how far it has come; the sweep keeps nothing beside it but a copy of the grid
and the runs' logs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from decision_seq.config import save_text
from decision_seq.data.conditioning import label
from decision_seq.problem import Config, prepare
from decision_seq.sweep.folders import Progress, is_scored, likely_progress, progress
from decision_seq.sweep.grid import Run, read_grid
from decision_seq.train.metrics import check_trackers
from decision_seq.types import Bar, Reporter, UserError

__all__ = ["Plan", "Run", "examine", "examine_folders", "keep_grid", "read_grid", "sweep"]


class Launcher(Protocol):
    """Runs everything to its end -> the failed ones, with the reason."""

    def run(self, runs: Sequence[Run], bar: Bar) -> dict[str, str]: ...


@dataclass
class Plan:
    """What there is to do.

    refused: runs whose folder holds another run, with the reason; nobody touches them.
    resolved: every run's configuration as its data complete it.
    """

    progress: dict[str, Progress] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, Config] = field(default_factory=dict)

    def note(self, run: Run, look: Callable[[], Progress]) -> None:
        try:
            self.progress[run.name] = look()
        except UserError as error:
            self.refused[run.name] = str(error)

    def waiting(self, runs: Sequence[Run]) -> list[Run]:
        """Those to begin or to go on with."""
        return [run for run in runs if self.progress.get(run.name) in ("new", "begun")]


def examine_folders(runs: Sequence[Run], output: Path) -> Plan:
    """What there seems to be to do, without a look at the data."""
    plan = Plan()
    for run in runs:
        plan.note(run, partial(likely_progress, output / run.name, run.config))
    return plan


def examine(runs: Sequence[Run], output: Path, reporter: Reporter) -> Plan:
    """What there is to do; every dataset is collected, fetched and labelled where it is not yet.

    UserError for data that cannot be had or do not fit a configuration: before any run begins.
    """
    plan = Plan()
    told: set[str] = set()
    for run in runs:
        check_trackers(run.config.train.trackers)
        first = run.config.dataset not in told
        told.add(run.config.dataset)
        problem = prepare(run.config, reporter if first else Reporter())
        label(problem.store, problem.config.conditioning)
        plan.resolved[run.name] = problem.config
        plan.note(run, partial(progress, output / run.name, problem))
    return plan


def keep_grid(path: Path, output: Path, settings: Sequence[str], seeds: int | None) -> None:
    """A copy of the grid beside its runs, with what the command line has changed."""
    changed = [f"# --set {setting}" for setting in settings]
    changed += [f"# --seeds {seeds}"] if seeds is not None else []
    save_text(output / "grid.yaml", "\n".join([path.read_text().rstrip("\n"), *changed]) + "\n")


def sweep(
    runs: Sequence[Run],
    output: Path,
    plan: Plan,
    launcher: Callable[[Callable[[Run], bool]], Launcher],
    reporter: Reporter,
) -> dict[str, str]:
    """Do what the plan leaves to do -> the runs that failed or were refused, with the reason.

    launcher: makes one from the function that says whether a run has finished.
    """
    waiting = plan.waiting(runs)
    done = sum(progress == "finished" for progress in plan.progress.values())
    reporter.say(
        f"sweep: {len(runs)} runs, {done} finished before, {len(waiting)} to do,"
        f" {len(plan.refused)} refused"
    )
    failed = {}
    if waiting:
        started = launcher(lambda run: is_scored(output / run.name, plan.resolved[run.name]))
        with reporter.bar("sweep", "run", len(waiting)) as bar:
            failed = started.run(waiting, bar)
    return {**plan.refused, **failed}
