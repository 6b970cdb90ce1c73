"""Checks of a run's surroundings: the launch, the clocks, the disk, the simulator."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decision_seq import checkpoint
from decision_seq.doctor.check import FAILED, OK, WARNING, Check, everywhere, tried
from decision_seq.envs import Environments, obstacle
from decision_seq.evaluation import check_environment
from decision_seq.machine.workers import cores
from decision_seq.runs.experiment import describe_launch
from decision_seq.runs.folder import LOCK, held, is_run
from decision_seq.runs.resolve import Config, Problem
from decision_seq.training import Ranks, Trainer
from decision_seq.training.metrics import check_trackers
from decision_seq.training.parallel import full_moments, full_weights
from decision_seq.types import UserError

CLOCKS_AGREE = 1.0  # seconds
ENV_STEPS = 200


def launch(config: Config, ranks: Ranks, device: torch.device, processes: int | None) -> Check:
    """Check that all ranks run the same packages, and that the cores suffice for the threads.

    Inconsistent launches do not reach this check: `start_accelerator` refuses them.
    """
    packages = {name: version(name) for name in ("decision-seq", "torch", "numpy", "accelerate")}
    gathered = ranks.gather(packages)
    others = [rank for rank, theirs in enumerate(gathered) if theirs != gathered[0]]
    if others:
        rank = others[0]
        name = next(name for name in packages if gathered[rank][name] != gathered[0][name])
        found = f"rank {rank} runs {name} {gathered[rank][name]}, rank 0 {gathered[0][name]}"
        return Check("launch", FAILED, f"{found}; install the same everywhere")
    expected = "--processes not given" if processes is None else f"{processes} asked for"
    backend = f", {torch.distributed.get_backend()}" if torch.distributed.is_initialized() else ""
    finding = f"{describe_launch(config, ranks, device)}{backend}; {expected}"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads, granted = here * torch.get_num_threads(), cores()
    if threads > granted:
        share = max(granted // here, 1)
        crowd = f"{threads} threads on {granted} cores; set OMP_NUM_THREADS={share}"
        return Check("launch", WARNING, f"{finding}; {crowd}")
    return Check("launch", OK, finding)


def clock(ranks: Ranks) -> Check:
    """Check that the ranks' clocks agree, as far as a collective exchange can show.

    No rank ends an exchange before every rank has begun it. So if one rank begins, by its clock,
    after another ends, by that other's clock, the first clock is ahead. No two clocks differ by
    more than the time from the first beginning to the last end.
    """
    for _ in range(3):  # ranks arrive at different times; each round brings them closer
        ranks.gather(None)
    before, started = time.time(), time.monotonic()
    ranks.gather(None)
    after = time.time()
    time.sleep(0.01)
    gathered = ranks.gather([before, after, time.monotonic() > started])
    begun, ended, advanced = zip(*gathered, strict=True)
    if not all(advanced):
        return Check("clock", FAILED, f"rank {advanced.index(False)}: the monotonic clock stops")
    apart, at_most = max(begun) - min(ended), max(ended) - min(begun)
    if apart > CLOCKS_AGREE:
        first, last = begun.index(max(begun)), ended.index(min(ended))
        finding = f"rank {first} is {apart:.1f} s ahead of rank {last}: their logs do not line up"
        return Check("clock", WARNING, finding)
    if at_most > CLOCKS_AGREE:
        return Check(
            "clock", WARNING, f"an exchange took {at_most:.1f} s: too slow to compare them"
        )
    agree = f"wall clocks agree within {at_most:.3f} s; " if ranks.world > 1 else ""
    return Check("clock", OK, f"{agree}the monotonic clock advances")


def trackers(config: Config, ranks: Ranks) -> Check:
    """Check that the main process, the only one that writes to trackers, can import them."""

    def act() -> Check:
        check_trackers(config.train.trackers)
        named = ", ".join(("metrics.jsonl", *config.train.trackers))
        return Check("trackers", OK, named)

    return everywhere(ranks, "trackers", act)


def near(output: Path) -> Path:
    """An existing folder on the disk of a run's folder, which may not exist yet.

    It is the nearest existing parent, or the folder itself where that parent is on another disk or
    not writable.
    """
    output = output.resolve()
    parent = next(path for path in output.parents if path.exists())
    if output.is_dir():
        elsewhere = parent.stat().st_dev != output.stat().st_dev
        if elsewhere or not os.access(parent, os.W_OK):
            return output
    return parent


def disk(output: Path, trainer: Trainer, ranks: Ranks) -> tuple[Check, float]:
    """Save a checkpoint next to the run's folder -> the check, and the seconds of the save.

    Only the main process writes; the others take part where a model is sharded.
    """
    tensors = checkpoint.Tensors(
        full_weights(trainer.policy), full_moments(trainer.optimizer, trainer.policy)
    )
    seconds = [0.0]

    def act() -> Check:
        used = _used(output)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=near(output)) as name:
            folder = Path(name)
            free = shutil.disk_usage(folder).free
            started = time.perf_counter()
            state: dict[str, Any] = {key: {} for key in checkpoint.CARRIED}
            path = checkpoint.save(folder, 1, tensors, trainer.job.described, state)
            seconds[0] = time.perf_counter() - started
            damage = checkpoint.fault(path)
            if damage is not None:
                return Check("disk", FAILED, f"a checkpoint read back differs: {damage}")
            os.replace(path, folder / "renamed")
            _check_lock(folder)
            size = sum(p.stat().st_size for p in (folder / "renamed").rglob("*") if p.is_file())
            room = _room(trainer, size, seconds[0], free)
        if used and room.state == OK:
            return Check("disk", WARNING, f"{room.finding}; {used}")
        return room

    def on_main() -> list[Any]:
        found = tried("disk", act)
        return [found.state, found.finding, seconds[0]]

    state, finding, took = ranks.from_main(on_main)
    return Check("disk", state, finding), took


def _check_lock(folder: Path) -> None:
    """UserError unless the lock of a folder excludes a second launch."""
    with held(folder):
        try:
            with held(folder):
                pass
        except UserError:
            return
    raise UserError(f"file locks in {folder.parent} have no effect; name an --output elsewhere")


def _used(output: Path) -> str | None:
    """A remark about a folder that holds a run; UserError where no run could begin or resume."""
    if not output.exists():
        return None
    if not output.is_dir():
        raise UserError(f"{output} is no folder; name another --output")
    if is_run(output):
        return f"{output} holds a run: train resumes it only with --resume"
    if any(path.name != LOCK for path in output.iterdir()):
        raise UserError(f"{output} is not empty and holds no run; name another --output")
    return None


def _room(trainer: Trainer, size: int, seconds: float, free: int) -> Check:
    """Compare the size of the checkpoints that a run retains with the free space."""
    config = trainer.config
    saved = saved_steps(trainer)
    retained = config.keep_checkpoints + (config.keep_best is not None)
    if config.keep_every:
        retained += int((saved % config.keep_every == 0).sum())
    count = min(retained, len(saved)) + 1  # a new one is complete before an old one is deleted
    finding = (
        f"{count} checkpoints of {size / 1e6:,.1f} MB at most, {free / 1e9:,.1f} GB free; one saved"
        f" and synced in {seconds:.2g} s ({size / 1e6 / seconds:,.0f} MB/s), rename and lock work"
    )
    if count * size > free:
        return Check("disk", FAILED, f"{finding}; lower train.keep_checkpoints or keep_every")
    return Check("disk", WARNING if count * size > 0.8 * free else OK, finding)


def saved_steps(trainer: Trainer) -> np.ndarray:
    """The updates after which the whole run saves."""
    steps, every = trainer.config.steps, trainer.config.checkpoint_every
    return np.union1d(np.arange(every, steps + 1, every), [steps, *evaluated_steps(trainer)])


def evaluated_steps(trainer: Trainer) -> list[int]:
    """The updates after which the whole run rolls the policy out."""
    steps, every = trainer.config.steps, trainer.job.evaluate_every or 0
    if trainer.job.evaluation is None:
        return []
    return sorted({steps, *(range(every, steps + 1, every) if every else ())})


def simulator(problem: Problem, episodes: int, ranks: Ranks) -> Check:
    """Check that every rank can roll out; episodes: those of the user's configuration."""

    def act() -> Check:
        atari = "ale_py not installed (Atari alone needs it)"
        if importlib.util.find_spec("ale_py") is not None:
            atari = f"ale_py {version('ale-py')}"
        evaluation = problem.config.evaluation
        if not evaluation.episodes:
            if not episodes:
                return Check("simulator", OK, f"not needed: evaluation.episodes is 0; {atari}")
            reason = obstacle(problem.facts.env_id, problem.facts.family)
            return Check("simulator", WARNING, f"the policy will not be rolled out: {reason}")
        try:
            rate, limit = _env_rate(str(evaluation.env_id), problem, evaluation.seed)
        except UserError:
            raise
        except Exception as error:  # a simulator may raise anything
            reason = " ".join(str(error).split())[:120]
            return Check("simulator", FAILED, f"{type(error).__name__}: {reason}")
        finding = f"{evaluation.env_id} steps, {rate:,.0f} a second alone"
        if limit is None:
            cut = f"{problem.spec.max_timestep:,} steps (evaluation.max_episode_steps)"
            finding = f"{finding}; it has no time limit, so episodes are truncated after {cut}"
            return Check("simulator", WARNING, finding)
        return Check("simulator", OK, f"{finding}; mujoco {version('mujoco')}, {atari}")

    return everywhere(ranks, "simulator", act)


def _env_rate(env_id: str, problem: Problem, seed: int) -> tuple[float, int | None]:
    """Steps per second of one environment under random actions, and its time limit in steps."""
    limit = problem.config.evaluation.max_episode_steps
    check_environment(env_id, problem.spec, limit)
    environments = Environments(env_id, 1, step_limit=limit)
    space = environments.envs[0].action_space
    space.seed(seed)
    environments.reset([seed])
    started = time.perf_counter()
    for _ in range(ENV_STEPS):
        environments.step(np.zeros(1, int), space.sample()[None])
        if not environments.running.any():
            environments.reset([seed])
    seconds = time.perf_counter() - started
    environments.close()
    return ENV_STEPS / seconds, environments.max_episode_steps
