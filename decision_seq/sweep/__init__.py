"""Many runs from one grid: finished runs are skipped, interrupted runs are resumed.

The progress of a run is read from its folder. The sweep itself saves only a copy of the grid and
the runs' logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from decision_seq.config import save_text
from decision_seq.reading import YAML_BYTES, read_text
from decision_seq.runs.folder import LOCK, held
from decision_seq.runs.resolve import Config, prepare
from decision_seq.sequences.conditioning import label
from decision_seq.sweep.folders import Progress, is_scored, likely_progress, progress
from decision_seq.sweep.grid import Run, read_grid
from decision_seq.training.metrics import check_trackers
from decision_seq.types import Bar, Reporter, UserError

__all__ = [
    "Plan",
    "Run",
    "examine",
    "examine_folders",
    "folder",
    "keep_grid",
    "read_grid",
    "sweep",
]


class Launcher(Protocol):
    """Executes runs to their end; `run` returns the failed ones by name, with the reason."""

    def run(self, runs: Sequence[Run], bar: Bar) -> dict[str, str]: ...


@dataclass
class Plan:
    """The work of a sweep: which runs to begin, to resume, to skip or to refuse."""

    progress: dict[str, Progress] = field(default_factory=dict)
    """Progress of each run that is not refused, by name."""
    refused: dict[str, str] = field(default_factory=dict)
    """Reasons for runs whose folder holds another run, by name; such folders are not changed."""
    resolved: dict[str, Config] = field(default_factory=dict)
    """Each run's configuration, completed from its data, by name."""

    def note(self, run: Run, look: Callable[[], Progress]) -> None:
        try:
            self.progress[run.name] = look()
        except UserError as error:
            self.refused[run.name] = str(error)

    def waiting(self, runs: Sequence[Run]) -> list[Run]:
        """The runs to begin or to resume."""
        return [run for run in runs if self.progress.get(run.name) in ("new", "begun")]


def examine_folders(runs: Sequence[Run], output: Path) -> Plan:
    """The probable plan, made without opening the data."""
    plan = Plan()
    for run in runs:
        plan.note(run, partial(likely_progress, output / run.name, run.config))
    return plan


def examine(runs: Sequence[Run], output: Path, reporter: Reporter) -> Plan:
    """The plan; each dataset is collected or fetched, and labelled, unless that was done before.

    UserError, before any run begins, for data that are unavailable or do not fit a configuration.
    """
    plan = Plan()
    reported: set[str] = set()
    for run in runs:
        check_trackers(run.config.train.trackers)
        first = run.config.dataset not in reported
        reported.add(run.config.dataset)
        problem = prepare(run.config, reporter if first else Reporter())
        label(problem.store, problem.config.conditioning)
        plan.resolved[run.name] = problem.config
        plan.note(run, partial(progress, output / run.name, problem))
    return plan


@contextmanager
def folder(output: Path) -> Iterator[None]:
    """The sweep's folder, made and locked against other sweeps."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the output folder {output}: {error.strerror}") from error
    with held(output, "sweeping"):
        try:
            yield
        finally:
            (output / LOCK).unlink(missing_ok=True)


def keep_grid(path: Path, output: Path, settings: Sequence[str], seeds: int | None) -> None:
    """Save a copy of the grid in the sweep's folder, with changes by options as comments."""
    changed = [f"# --set {setting}" for setting in settings]
    changed += [f"# --seeds {seeds}"] if seeds is not None else []
    save_text(
        output / "grid.yaml", "\n".join([read_text(path, YAML_BYTES).rstrip("\n"), *changed]) + "\n"
    )


def sweep(
    runs: Sequence[Run],
    output: Path,
    plan: Plan,
    launcher: Callable[[Callable[[Run], bool]], Launcher],
    reporter: Reporter,
) -> dict[str, str]:
    """Execute the plan's unfinished runs -> those that failed or were refused, with the reason.

    launcher: builds the launcher; its argument is a function that tells whether a run has finished.
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
