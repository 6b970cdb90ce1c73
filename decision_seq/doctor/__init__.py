"""`decision-seq doctor`: checks that this launch, on this machine, would train correctly.

Run it before a long job, with the job's own launcher. It does not begin a run.

check.py      the result of a check, and its agreement between ranks
machine.py    checks of the launch, the clocks, the disk and the simulator
learning.py   checks of the first updates' windows, weights and losses; the run's duration
"""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from accelerate import Accelerator

from decision_seq.doctor import learning, machine
from decision_seq.doctor.check import FAILED, OK, Check, checks_text, failed
from decision_seq.runs.experiment import leave, make_job, share_problem
from decision_seq.runs.resolve import Config, Problem, prepare
from decision_seq.sequences.conditioning import label
from decision_seq.training import Ranks, Trainer, start_accelerator
from decision_seq.training.launch import watched
from decision_seq.types import Reporter, UserError

__all__ = ["Check", "checks_text", "examine", "failed"]


def examine(
    config: Config, output: Path, processes: int | None = None, reporter: Reporter | None = None
) -> list[Check]:
    """Run all checks -> their results, the same on all ranks.

    Checks that need the data are left out if the data cannot be opened. Every process of a launch
    calls this function. UserError where the launch itself is refused.
    """
    reporter = reporter or Reporter()
    with watched():
        return _examined(config, output, processes, reporter)


def _examined(
    config: Config, output: Path, processes: int | None, reporter: Reporter
) -> list[Check]:
    accelerator = start_accelerator(config.train, processes)
    ranks = Ranks(accelerator)
    checks = [
        machine.launch(config, ranks, accelerator.device, processes),
        machine.clock(ranks),
        machine.trackers(config, ranks),
    ]
    found, problem = data(config, ranks, reporter)
    checks.append(found)
    if problem is not None:
        episodes = config.evaluation.episodes
        checks.append(machine.simulator(problem, episodes, ranks))
        checks += _training(problem, output, accelerator, ranks, checks[-1].state != FAILED)
    leave(accelerator)
    return checks


def data(config: Config, ranks: Ranks, reporter: Reporter) -> tuple[Check, Problem | None]:
    """Open the data as training does -> the check, and the problem; None where opening fails."""

    def begin() -> Problem:
        problem = prepare(config, reporter)
        label(problem.store, problem.config.conditioning)
        return problem

    try:
        problem = share_problem(ranks, begin)
    except UserError as error:
        return Check("data", FAILED, " ".join(str(error).split())), None
    store = problem.store
    finding = f"{store.source}: {store.num_episodes:,} episodes, {store.num_transitions:,}"
    same = f", the same on {ranks.world} processes" if ranks.world > 1 else ""
    return Check("data", OK, f"{finding} transitions{same} ({store.checksum[:14]})"), problem


def _training(
    problem: Problem, output: Path, accelerator: Accelerator, ranks: Ranks, rolls: bool
) -> list[Check]:
    """The checks that build a model and train it; rolls: whether the simulator works."""

    def begin() -> Trainer:
        return Trainer(make_job(problem, output), accelerator, ranks, Reporter())

    try:  # all ranks have the same configuration and data, so all of them fail or none
        trainer = begin()
    except UserError as error:
        return [Check("model", FAILED, " ".join(str(error).split()))]
    checks = [learning.windows(trainer, ranks), learning.model(trainer, ranks)]
    try:
        first = learning.updates(trainer, 3)
    except torch.OutOfMemoryError:
        if ranks.world > 1:  # other ranks wait in a collective; only the launcher can end them
            raise
        finding = "the device's memory does not hold an update; raise train.accumulation"
        return [*checks, Check("updates", FAILED, finding)]
    checks.append(learning.replicas(trainer, ranks))
    del trainer
    gc.collect()  # so that memory holds one model at a time
    trainer = begin()
    checks.append(learning.repeat(first, learning.updates(trainer, 2), ranks))
    saved, save = machine.disk(output, trainer, ranks)
    speed, update = learning.throughput(trainer, ranks)
    checks += [saved, speed]
    if FAILED not in (saved.state, speed.state):
        checks.append(learning.whole_run(trainer, ranks, update, save, rolls))
    return checks
