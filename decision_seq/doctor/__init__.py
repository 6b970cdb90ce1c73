"""`decision-seq doctor`: whether this launch, on this machine, would train as it should.

Run before a long job, under the job's own launcher. No run is begun.

check.py      what a check finds, and how the ranks come to find the same
machine.py    the launch, the clocks, the disk, the simulator
learning.py   windows, weights and losses of the first updates; how long the run will take
"""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from accelerate import Accelerator

from decision_seq.data.conditioning import label
from decision_seq.doctor import learning, machine
from decision_seq.doctor.check import FAILED, OK, Check, checks_text, failed
from decision_seq.experiment import leave, make_job, share_problem
from decision_seq.problem import Config, Problem, prepare
from decision_seq.train import Ranks, Trainer, start_accelerator
from decision_seq.train.launch import watched
from decision_seq.types import Reporter, UserError

__all__ = ["Check", "checks_text", "examine", "failed"]


def examine(
    config: Config, output: Path, processes: int | None = None, reporter: Reporter | None = None
) -> list[Check]:
    """Every check, the same on all ranks; what cannot be examined without the data is left out.

    Every process of a launch calls it. UserError where the launch itself is refused.
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
        asked = config.evaluation.episodes
        checks.append(machine.simulator(problem, asked, ranks))
        checks += _training(problem, output, accelerator, ranks, checks[-1].state != FAILED)
    leave(accelerator)
    return checks


def data(config: Config, ranks: Ranks, reporter: Reporter) -> tuple[Check, Problem | None]:
    """Open the data as training does, the same on all ranks; the problem is None where it fails."""

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
    """The checks that train; rolls: the simulator works."""

    def begin() -> Trainer:
        return Trainer(make_job(problem, output), accelerator, ranks, Reporter())

    try:  # the same configuration and data are refused on every rank
        trainer = begin()
    except UserError as error:
        return [Check("model", FAILED, " ".join(str(error).split()))]
    checks = [learning.windows(trainer, ranks), learning.model(trainer, ranks)]
    try:
        first = learning.updates(trainer, 3)
    except torch.OutOfMemoryError:
        if ranks.world > 1:  # the others wait in a collective: only the launcher can end them
            raise
        finding = "the device's memory does not hold an update; raise train.accumulation"
        return [*checks, Check("updates", FAILED, finding)]
    checks.append(learning.replicas(trainer, ranks))
    del trainer
    gc.collect()  # the memory of one model at a time
    trainer = begin()
    checks.append(learning.repeat(first, learning.updates(trainer, 2), ranks))
    saved, save = machine.disk(output, trainer, ranks)
    speed, update = learning.throughput(trainer, ranks)
    checks += [saved, speed]
    if FAILED not in (saved.state, speed.state):
        checks.append(learning.whole_run(trainer, ranks, update, save, rolls))
    return checks
