"""What a run will need: parameters, FLOPs, memory and time. The last two by a few updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decision_seq.config import to_tree
from decision_seq.doctor import learning, machine
from decision_seq.doctor.check import FAILED, duration
from decision_seq.doctor.machine import evaluated_steps
from decision_seq.runs.experiment import (
    begin_from,
    leave,
    make_job,
    prepare_checked,
    share_problem,
)
from decision_seq.runs.initial import Source
from decision_seq.runs.resolve import Config, Problem
from decision_seq.training import Ranks, Trainer, start_accelerator
from decision_seq.training.launch import watched
from decision_seq.types import Reporter

SECONDS = 10.0  # for which updates are measured, about
UNITS = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "": 1.0}


@dataclass(frozen=True)
class Prediction:
    """What a run needs, on this launch."""

    parameters: int
    """Parameters of the policy."""
    tokens_per_window: int
    """Positions that the backbone receives for a window."""
    flops_per_window: float
    """FLOPs of a window, forward and backward, counted."""
    flops: float
    """FLOPs of all updates."""
    state_bytes: float
    """Bytes of weights, gradients and moments on a process, counted."""
    peak_memory_gib: float
    """Largest memory of a process in the measured updates: of the GPU, or resident."""
    device: str
    """Where the updates were measured: cpu or cuda."""
    processes: int
    """Processes that train together."""
    measured_updates: int
    """Updates that were measured."""
    updates_per_second: float
    """The measured rate."""
    update_seconds: float
    """Seconds of all updates at that rate, without checkpoints and evaluations."""
    evaluations: int
    """Evaluations of the run."""
    evaluation_seconds: float | None
    """Seconds of all evaluations if no episode ends early, from a few measured steps; null if
    unknown."""
    fault: str | None = None
    """What is wrong with the simulator; null if it works or is not needed."""


def predict(
    config: Config, output: Path, processes: int | None = None, reporter: Reporter | None = None
) -> tuple[Config, Prediction]:
    """Open the data, build the model and measure a few updates -> the resolved configuration, and
    what its run needs, the same on all ranks.

    Nothing is written in `output`. UserError for whatever would keep the run from beginning.
    """
    reporter = reporter or Reporter()
    with watched():
        accelerator = start_accelerator(config.train, processes)
        ranks = Ranks(accelerator)

        def begin() -> Problem:
            problem = prepare_checked(config, output, reporter)
            if config.init_from:
                problem = begin_from(Source.open(config.init_from, reporter), problem, reporter)
            return problem

        problem = share_problem(ranks, begin)
        trainer = Trainer(make_job(problem, output), accelerator, ranks, Reporter())
        simulator = machine.simulator(problem, config.evaluation.episodes, ranks)
        fault = simulator.finding if simulator.state == FAILED else None
        found = _measured(trainer, ranks, fault)
        leave(accelerator)
    return problem.config, found


def _measured(trainer: Trainer, ranks: Ranks, fault: str | None) -> Prediction:
    rates, count = learning.measured(trainer, ranks, SECONDS)
    rate = min(theirs["updates_per_second"] for theirs in rates)
    steps, cost = trainer.config.steps, trainer.throughput.cost
    evaluations = len(evaluated_steps(trainer))
    each = learning.evaluation_seconds(trainer, ranks, fault is None) if evaluations else 0.0
    return Prediction(
        parameters=learning.parameters(trainer),
        tokens_per_window=cost.tokens,
        flops_per_window=cost.flops,
        flops=cost.flops * trainer.config.batch_size * steps,
        state_bytes=learning.state_bytes(trainer, ranks),
        peak_memory_gib=max(theirs["memory_gib"] for theirs in rates),
        device=trainer.accelerator.device.type,
        processes=ranks.world,
        measured_updates=count,
        updates_per_second=rate,
        update_seconds=steps / rate,
        evaluations=evaluations,
        evaluation_seconds=None if each is None else each * evaluations,
        fault=fault,
    )


def prediction_text(config: Config, found: Prediction) -> str:
    """The prediction as aligned lines that say what was counted and what was measured."""
    train = config.train
    kind = "of the GPU" if found.device == "cuda" else "resident, with data and libraries"
    together = "1 process" if found.processes == 1 else f"{found.processes} processes"
    rows = {
        "configuration": f"valid: {config.method or to_tree(config)['policy']['name']} on"
        f" {config.dataset}, seed {config.seed}",
        "parameters": f"{found.parameters:,}",
        "window": f"{config.policy.context_length} steps, {found.tokens_per_window} tokens,"
        f" {flops_text(found.flops_per_window)}",
        "run": f"{train.steps:,} updates of {train.batch_size:,} windows,"
        f" {flops_text(found.flops)}",
        "memory": f"counted: weights, gradients and moments {found.state_bytes / 2**20:,.1f} MiB a"
        f" process; measured: {found.peak_memory_gib:.2g} GiB a process at most ({kind})",
        "updates": f"{duration(found.update_seconds)} at {found.updates_per_second:,.3g} updates/s,"
        f" measured over {found.measured_updates} updates on {found.device}"
        f" ({together}), under this machine's present load",
        "evaluations": _evaluations_text(found),
        "checkpoints": "not included; `decision-seq doctor` measures one",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows.items())


def _evaluations_text(found: Prediction) -> str:
    if not found.evaluations:
        return "none"
    if found.evaluation_seconds is None:
        return f"{found.evaluations:,}, of unknown length: {found.fault or 'no step was measured'}"
    return (
        f"{found.evaluations:,}, {duration(found.evaluation_seconds)} at most, measured over"
        f" {learning.BRIEFLY} steps, if no episode ends before its time limit"
    )


def flops_text(flops: float) -> str:
    """A number of FLOPs in a suitable unit: `183 MFLOP`, `35.1 PFLOP`."""
    unit, size = next((unit, size) for unit, size in UNITS.items() if flops >= size or size == 1)
    return f"{flops / size:.3g} {unit}FLOP"
