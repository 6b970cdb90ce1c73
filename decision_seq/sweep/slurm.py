"""Execution of a sweep's runs as jobs of a SLURM cluster, submitted by submitit."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq.config import require
from decision_seq.sweep.folders import last_line
from decision_seq.sweep.grid import Run
from decision_seq.sweep.local import command, environment, log_path, reason
from decision_seq.types import Bar, Reporter, UserError

POLL_SECONDS = 30.0  # the scheduler serves all users, so it is polled rarely
SAVE_SECONDS = 90  # from the signal to the end of a job's time: enough for an update and a save
TIME_LIMITS = 1_000  # how often a run may be queued again after its time limit


class SlurmJob:
    """A run on its node; at its time limit or when pre-empted, it saves and is queued again."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.arguments, self.log = arguments, log
        self.pid: int | None = None

    def __call__(self) -> None:
        """Execute the run; RuntimeError, which marks the job as failed, where it fails."""
        with open(self.log, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(jobs=1)},
                preexec_fn=_ignore_submitit,
            )
        self.pid = process.pid
        code = process.wait()
        if code != 0:
            raise RuntimeError(reason(code, self.log))

    def checkpoint(self) -> Any:
        """Stop the run and return its next submission.

        submitit calls this in a signal handler, while `__call__` waits for the process.
        """
        import submitit

        if self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)
            # WNOWAIT leaves the process for `__call__` to reap, where Popen's lock is held.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(SlurmJob(self.arguments, self.log))


def _ignore_submitit() -> None:
    """Ignore SIGUSR2 in the run, which it would kill: SLURM sends it to all processes of a job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@dataclass(frozen=True)
class Cluster:
    """Access to a scheduler."""

    executor: Any
    """submitit's executor, to which jobs are submitted."""
    queued: Callable[[], set[str] | None]
    """Returns the names of jobs that have not ended; None if the scheduler does not answer."""


def slurm(folder: Path, partition: str | None, minutes: int, options: Sequence[str]) -> Cluster:
    """The SLURM cluster of this machine.

    options: `key=value` of sbatch, as gpus-per-node=1. UserError where there is no SLURM.
    """
    require(minutes >= 1, f"--time {minutes} minutes asked for; at least 1 is needed")
    more = {}
    for option in options:
        key, equals, value = option.partition("=")
        require(bool(key and equals), f"--sbatch {option!r} is no key=value, as qos=low is")
        more[key.lstrip("-")] = value
    require(
        importlib.util.find_spec("submitit") is not None,
        "--slurm needs submitit (pip install 'decision-seq[slurm]')",
    )
    lacking = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    require(
        not lacking,
        f"--slurm needs {', '.join(lacking)}, not found here; run it on a machine of the cluster",
    )
    import submitit

    executor = submitit.SlurmExecutor(folder, max_num_timeout=TIME_LIMITS)
    executor.update_parameters(
        time=minutes,
        signal_delay_s=SAVE_SECONDS,
        stderr_to_stdout=True,
        additional_parameters=more,
        **({"partition": partition} if partition else {}),
    )
    return Cluster(executor, _squeue)


def _squeue() -> set[str] | None:
    arguments = ["squeue", "--me", "--noheader", "--format=%j"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return set(done.stdout.split()) if done.returncode == 0 else None


def job_name(output: Path, run: Run) -> str:
    """A job's name, unique to the run and the sweep's folder, by which it is found again."""
    key = hashlib.sha256(os.fsencode(output.resolve())).hexdigest()[:8]
    return f"{run.name}-{key}"


class Submitted:
    """A launcher that submits the runs that are not in the queue, then waits for all of them."""

    def __init__(
        self,
        output: Path,
        cluster: Cluster,
        is_finished: Callable[[Run], bool],
        reporter: Reporter,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.output, self.cluster, self.is_finished = output, cluster, is_finished
        self.reporter, self.poll_seconds = reporter, poll_seconds

    def run(self, runs: Sequence[Run], bar: Bar) -> dict[str, str]:
        """Submit all runs and wait for their end -> the failed ones by name, with the reason.

        Ctrl-C ends only the waiting: the jobs stay, and the same sweep waits for them again.
        """
        queued = self.cluster.queued()
        if queued is None:
            raise UserError("squeue does not answer; run again when it does: nothing is submitted")
        for run in runs:
            if job_name(self.output, run) in queued:
                self.reporter.say(f"queued  {run.name} (by an earlier sweep)")
            else:
                self._submit(run)
        try:
            return self._wait(list(runs), bar)
        except KeyboardInterrupt:
            self.reporter.say("the jobs stay in the queue; the same command waits for them again")
            raise

    def _submit(self, run: Run) -> None:
        self.cluster.executor.update_parameters(job_name=job_name(self.output, run))
        job = SlurmJob(command(self.output.resolve(), run), log_path(self.output.resolve(), run))
        try:
            number = self.cluster.executor.submit(job).job_id
        except Exception as error:  # submitit's message holds sbatch's
            message = " ".join(str(error).split())
            raise UserError(f"sbatch refuses {run.name}: {message[-300:]}") from error
        self.reporter.say(f"submit  {run.name} (job {number})")

    def _wait(self, waiting: list[Run], bar: Bar) -> dict[str, str]:
        failed: dict[str, str] = {}
        gone: set[str] = set()
        bar.set_postfix_str(f"{len(waiting)} in the queue")
        while waiting:
            time.sleep(self.poll_seconds)
            queued = self.cluster.queued()
            for run in list(waiting):
                if queued is None or job_name(self.output, run) in queued:
                    gone.discard(run.name)
                    continue
                finished = self.is_finished(run)
                if not finished and run.name not in gone:
                    gone.add(run.name)  # a network disk may show its last files later
                    continue
                waiting.remove(run)
                bar.update(1)
                if not finished:
                    log = log_path(self.output, run)
                    failed[run.name] = f"{last_line(log) or 'its log is empty'} ({log})"
                self.reporter.say(f"{'finish' if finished else 'failed'}  {run.name}")
                bar.set_postfix_str(f"{len(waiting)} in the queue, {len(failed)} failed")
        return failed
