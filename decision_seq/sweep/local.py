"""Execution of a sweep's runs on this machine, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import decision_seq
from decision_seq.datasets.fetching.download import OFFLINE
from decision_seq.machine import workers
from decision_seq.runs.folder import require_idle
from decision_seq.sweep.folders import last_line
from decision_seq.sweep.grid import Run
from decision_seq.types import Bar, Reporter, UserError

POLL_SECONDS = 0.2


def log_path(output: Path, run: Run) -> Path:
    """The path of a run's log. It is not in the run's folder, which must be empty for `train`."""
    return output / f"{run.name}.log"


def command(output: Path, run: Run) -> list[str]:
    """The command of a run; -P: nothing is imported from the working directory."""
    return [sys.executable, "-P", "-m", "decision_seq", *run.arguments(output / run.name)]


class Local:
    """A launcher that executes at most `jobs` runs at a time; a failure stops no other run."""

    def __init__(self, output: Path, jobs: int, reporter: Reporter) -> None:
        self.output, self.jobs, self.reporter = output, jobs, reporter
        self.running: dict[str, tuple[Run, subprocess.Popen[bytes], float]] = {}
        self.failed: dict[str, str] = {}

    def run(self, runs: Sequence[Run], bar: Bar) -> dict[str, str]:
        """Execute all runs to their end -> the failed ones by name, with the reason.

        On Ctrl-C or a signal the runs receive SIGTERM and save; then the exception is raised again.
        """
        waiting = deque(runs)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.jobs:
                    if not self._start(waiting.popleft()):
                        bar.update(1)
                    self._count(bar)
                time.sleep(POLL_SECONDS)
                for name, (run, process, started) in list(self.running.items()):
                    code = process.poll()
                    if code is not None:
                        del self.running[name]
                        self._finish(run, code, time.monotonic() - started)
                        bar.update(1)
                        self._count(bar)
        except BaseException:  # a full disk too: no run may outlive the sweep
            self._stop()
            raise
        return self.failed

    def _count(self, bar: Bar) -> None:
        bar.set_postfix_str(f"{len(self.running)} running, {len(self.failed)} failed")

    def _start(self, run: Run) -> bool:
        """Start a run -> False where another process is training it already."""
        try:
            require_idle(self.output / run.name)
        except UserError as error:
            self.failed[run.name] = f"{error} (an earlier sweep may have started it)"
            self.reporter.say(f"refused {run.name}: a process is training it already")
            return False
        arguments = command(self.output, run)
        with open(log_path(self.output, run), "a", encoding="utf-8") as log:
            log.write(f"$ decision-seq {subprocess.list2cmdline(arguments[4:])}\n")
            log.flush()
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(self.jobs)},
                start_new_session=True,  # a terminal's Ctrl-C reaches only the sweep
            )
        self.running[run.name] = run, process, time.monotonic()
        self.reporter.say(f"start   {run.name}")
        return True

    def _finish(self, run: Run, code: int, seconds: float) -> None:
        if code == 0:
            self.reporter.say(f"finish  {run.name} ({duration(seconds)})")
            return
        self.failed[run.name] = reason(code, log_path(self.output, run))
        self.reporter.say(f"failed  {run.name} ({duration(seconds)})")

    def _stop(self) -> None:
        """Let every run save and end; a second signal kills them at once."""
        processes = [process for _, process, _ in self.running.values()]
        self.reporter.say(f"stopping; {len(processes)} running are asked to save")
        _send(processes, signal.SIGTERM)
        try:
            for process in processes:
                process.wait()
        except KeyboardInterrupt:  # earlier checkpoints are complete
            _send(processes, signal.SIGKILL)
            raise


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def environment(jobs: int, cores: Callable[[], int] = workers.cores) -> dict[str, str]:
    """Environment variables of a run's process, added to the sweep's.

    Runs are offline, because the data are prepared already: if some runs reached the network and
    others did not, they could train on different data. A run's threads are an equal share of the
    cores, unless the sweep was started with OMP_NUM_THREADS.
    """
    variables = {OFFLINE: "1", **_importable()}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
    return variables


def _importable() -> dict[str, str]:
    """The variable by which a run's process finds this package where it is not installed.

    `python -m` also finds it in the working directory; the runs' `python -P` does not.
    """
    parent = str(Path(decision_seq.__file__).resolve().parent.parent)
    first = 0 if sys.flags.safe_path else 1  # the first entry is the working directory
    if parent in (os.path.realpath(entry) for entry in sys.path[first:] if entry):
        return {}
    former = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([parent, former] if former else [parent])}


def reason(code: int, log: Path) -> str:
    """The cause of a run's failure, in one line."""
    how = f"killed by {signal.Signals(-code).name}; " if code < 0 else ""
    return f"{how}{last_line(log) or 'its log is empty'} ({log})"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
