"""Checks of training: the first updates of the run are executed."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from decision_seq.doctor.check import FAILED, OK, WARNING, Check, duration
from decision_seq.doctor.machine import evaluated_steps, saved_steps
from decision_seq.envs import Environments
from decision_seq.evaluation import Evaluation
from decision_seq.evaluation.rollout import rollout_returns
from decision_seq.training import Ranks, Trainer
from decision_seq.training.parallel import check_sharded, digest
from decision_seq.types import UserError

WINDOW_STEPS = 50
TIMED, TIMED_SECONDS = 20, 60.0  # updates, fewer where they would take longer
BRIEFLY = 60  # environment steps that are timed, with full contexts
IDLE = 0.3  # share of the time spent waiting for windows, above which there is a warning


def windows(trainer: Trainer, ranks: Ranks) -> Check:
    """Check that the ranks' windows, in rank order, are the batch that one process would draw.

    Windows are drawn with replacement, so two ranks may draw the same window. A fault is two ranks
    with the same part of the batch.
    """
    job = trainer.job
    mine = [np.concatenate(trainer.update.parts(step)).tolist() for step in range(WINDOW_STEPS)]
    gathered = ranks.gather(mine)
    for step in range(WINDOW_STEPS):
        batch = [row for theirs in gathered for row in theirs[step]]
        if batch != job.sampler.ids(step).tolist():
            finding = f"the ranks' windows of update {step + 1} are not parts of one batch"
            return Check("windows", FAILED, finding)
    sizes = sorted({len(theirs[0]) for theirs in gathered})
    each = " or ".join(map(str, sizes))
    finding = f"{WINDOW_STEPS} batches of {job.config.batch_size} are cut into {each} a process"
    return Check("windows", OK, f"{finding}, in {job.config.accumulation} micro-batch(es) each")


def model(trainer: Trainer, ranks: Ranks) -> Check:
    """Report the model's size, the cost of a window, and the memory of its state."""
    state = state_bytes(trainer, ranks)
    cost = trainer.throughput.cost
    finding = (
        f"{parameters(trainer):,} parameters, {cost.tokens} tokens and"
        f" {cost.flops / 1e9:.3g} GFLOP a window; weights, gradients and moments take"
        f" {state / 2**20:,.1f} MiB a process, activations come on top"
    )
    device = trainer.accelerator.device
    if device.type == "cuda":
        there, sharing = torch.cuda.mem_get_info(device)[1], 1
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    tight = state * sharing > 0.8 * there
    return Check("model", WARNING if tight else OK, finding)


def parameters(trainer: Trainer) -> int:
    """The number of the policy's parameters, those that are not trained included."""
    return sum(weight.numel() for weight in trainer.policy.parameters())


def state_bytes(trainer: Trainer, ranks: Ranks) -> float:
    """The bytes of weights, gradients and moments on a process."""
    weights = list(trainer.policy.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    whole = sum(weight.numel() * weight.element_size() for weight in weights)
    # Each trained weight also has a gradient and Adam's two moments.
    state = whole + 3 * sum(weight.numel() * weight.element_size() for weight in trained)
    return state / (ranks.world if trainer.config.parallel == "fsdp" else 1)


def updates(trainer: Trainer, count: int) -> list[list[str]]:
    """Execute the next `count` updates -> the losses and gradient norm of each, exact as hex."""
    prints = []
    for _ in range(count):
        outcome = trainer.update(trainer.step)
        trainer.step += 1
        prints.append([float(v).hex() for v in (*outcome.losses.values(), outcome.gradient_norm)])
    return prints


def replicas(trainer: Trainer, ranks: Ranks) -> Check:
    """Check that, after updates, the processes hold equal weights, or each only its shard."""
    done = f"after {trainer.step} updates"
    if trainer.config.parallel == "fsdp":
        return _shards(trainer, ranks, done)
    digests = ranks.gather(digest(trainer.policy))
    if len(set(digests)) > 1:
        other = next(rank for rank, theirs in enumerate(digests) if theirs != digests[0])
        return Check("replicas", FAILED, f"{done} rank {other} holds other parameters than rank 0")
    if ranks.world == 1:
        return Check("replicas", OK, f"one process holds the parameters ({digests[0]})")
    finding = f"{done} {ranks.world} processes hold the same parameters ({digests[0]})"
    return Check("replicas", OK, finding)


def _shards(trainer: Trainer, ranks: Ranks, done: str) -> Check:
    try:
        check_sharded(trainer.policy, ranks.world)
        fault = None
    except RuntimeError as error:
        fault = str(error)
    local = 0
    for weight in trainer.policy.parameters():
        local += weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()
    gathered = ranks.gather([fault, local])
    total = sum(weight.numel() for weight in trainer.policy.parameters())
    faults = [f"rank {rank}: {theirs[0]}" for rank, theirs in enumerate(gathered) if theirs[0]]
    if faults:
        return Check("replicas", FAILED, faults[0])
    shares = ", ".join(f"{theirs[1]:,}" for theirs in gathered)
    return Check("replicas", OK, f"{done} the processes hold {shares} of {total:,} parameters")


def repeat(first: list[list[str]], second: list[list[str]], ranks: Ranks) -> Check:
    """Check on each rank that the same updates from the same weights give the same numbers."""
    finite = all(math.isfinite(float.fromhex(v)) for update in first for v in update)
    gathered = ranks.gather([finite, first[: len(second)] == second])
    for rank, (theirs, same) in enumerate(gathered):
        if not theirs:
            finding = "a loss or gradient is not finite in the first updates"
            return Check("repeat", FAILED, f"rank {rank}: {finding}; look at the data")
        if not same:
            finding = "the same updates gave other losses; a resumed run will not repeat to the bit"
            return Check("repeat", WARNING, f"rank {rank}: {finding}")
    finding = f"{len(second)} updates from the same weights gave the same losses, to the bit"
    return Check("repeat", OK, finding)


def throughput(trainer: Trainer, ranks: Ranks) -> tuple[Check, float]:
    """Measure the rate of updates after a warm-up -> the check, and the seconds of one update."""
    gathered, count = measured(trainer, ranks, TIMED_SECONDS)
    slowest = min(gathered, key=lambda theirs: theirs["updates_per_second"])
    waiting = max(theirs["data_wait"] for theirs in gathered)
    memory = max(theirs["memory_gib"] for theirs in gathered)
    finding = (
        f"{slowest['updates_per_second']:,.3g} updates/s,"
        f" {slowest['windows_per_second']:,.0f} windows/s over {count} updates;"
        f" {waiting:.0%} of the time waits for windows; {memory:.2g} GiB a process at most"
    )
    state = WARNING if waiting > IDLE else OK
    return Check("throughput", state, finding), 1 / slowest["updates_per_second"]


def measured(trainer: Trainer, ranks: Ranks, seconds: float) -> tuple[list[dict[str, float]], int]:
    """Measure updates for about `seconds` at most -> the rates of each rank, and their number."""
    device = trainer.accelerator.device
    updates(trainer, 1)
    started = time.perf_counter()
    updates(trainer, 2)
    each = (time.perf_counter() - started) / 2
    count = ranks.from_main(lambda: max(2, min(TIMED, int(seconds / each))))
    trainer.throughput.begin()
    for _ in range(count):
        outcome = trainer.update(trainer.step)
        trainer.step += 1
        trainer.throughput.add(outcome.data_seconds)
    float(outcome.gradient_norm)  # waits for the device
    return ranks.gather(trainer.throughput.read(device)), count


class _TimedEnvironments(Environments):
    """Environments that run for `steps` steps; an episode that ends is reset, so all stay busy."""

    def __init__(self, env_id: str, count: int, steps: int) -> None:
        super().__init__(env_id, count)
        self.steps = steps
        self.times: list[float] = []

    def step(self, rows: np.ndarray, actions: np.ndarray) -> Any:
        observations, *rest = super().step(rows, actions)
        for at in np.flatnonzero(~self.running[rows]):
            observations[at] = self.begin(int(rows[at]), None)
        self.times.append(time.perf_counter())
        self.running[:] = len(self.times) < self.steps
        return observations, *rest


def _evaluation_seconds(trainer: Trainer, ranks: Ranks) -> float:
    """Seconds of one of the run's evaluations on this rank, on average, if all their episodes have
    the greatest length."""
    whole, count = trainer.job.evaluation, len(evaluated_steps(trainer))
    assert whole is not None
    part = whole.during(trainer.job.episodes_during)
    last = _rollout_seconds(trainer, ranks, whole)
    if part is whole or count < 2:
        return last
    return (last + (count - 1) * _rollout_seconds(trainer, ranks, part)) / count


def _rollout_seconds(trainer: Trainer, ranks: Ranks, evaluation: Evaluation) -> float:
    """Seconds of one evaluation on this rank."""
    policy = trainer.job.build().to(trainer.accelerator.device)
    share = -(-len(evaluation.requests()) // ranks.world)
    together, processes = evaluation.layout(policy, share, alone=ranks.world == 1)
    full = evaluation.context_length  # contexts are full from this step on
    environments = _TimedEnvironments(evaluation.env_id, together, full + BRIEFLY)
    targets = evaluation.groups[:1] * together
    seeds = [evaluation.seed + i for i in range(together)]
    rollout_returns(policy, evaluation.conditioning, full, environments, targets, seeds)
    limits = environments.max_episode_steps, evaluation.max_episode_steps
    longest = min((limit for limit in limits if limit), default=policy.spec.max_timestep)
    environments.close()
    each = (environments.times[-1] - environments.times[full - 1]) / BRIEFLY
    return math.ceil(share / (together * processes)) * longest * each


def whole_run(trainer: Trainer, ranks: Ranks, update: float, save: float, rolls: bool) -> Check:
    """Estimate the run's duration.

    update, save: seconds of one update and of one save; rolls: whether the simulator works.
    """
    evaluations = len(evaluated_steps(trainer))
    saves = len(saved_steps(trainer))
    parts = {
        f"{trainer.config.steps:,} updates": trainer.config.steps * update,
        f"{saves:,} checkpoints": saves * save,
    }
    known = evaluation_seconds(trainer, ranks, rolls)
    if known is not None and evaluations:
        parts[f"{evaluations:,} evaluation(s)"] = evaluations * known
    listed = ", ".join(f"{name} {duration(took)}" for name, took in parts.items())
    finding = f"at most about {duration(sum(parts.values()))}: {listed}"
    if not evaluations:
        return Check("whole run", OK, finding)
    if known is None:
        return Check("whole run", WARNING, f"{finding}, and evaluations of unknown length")
    return Check("whole run", OK, f"{finding} if no episode ends before its time limit")


def evaluation_seconds(trainer: Trainer, ranks: Ranks, rolls: bool) -> float | None:
    """Seconds of one evaluation on the slowest rank, see `_evaluation_seconds`; None if unknown.

    rolls: whether the simulator works.
    """
    seconds: float | None = 0.0
    if rolls and evaluated_steps(trainer):
        try:
            seconds = _evaluation_seconds(trainer, ranks)
        except UserError:
            seconds = None
    gathered = ranks.gather(seconds)
    return max(gathered) if rolls and None not in gathered else None
