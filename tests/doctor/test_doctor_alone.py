"""Tests of the doctor's single-process checks on real faults: disk, simulator, updates."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from decision_seq.doctor import learning, machine
from decision_seq.doctor.check import FAILED, OK, WARNING, Check, duration
from decision_seq.runs import experiment
from decision_seq.runs.resolve import prepare
from decision_seq.training import Ranks, Trainer, start_accelerator
from decision_seq.types import Reporter
from tests.doctor.test_doctor import ALONE, left
from tests.test_train import tiny


@pytest.fixture
def ranks() -> Ranks:
    return Ranks(ALONE)  # type: ignore[arg-type]


@pytest.fixture
def trainer(write_d4rl: Callable[..., Path], tmp_path: Path, ranks: Ranks) -> Trainer:
    config = tiny(write_d4rl())
    job = experiment.make_job(prepare(config, Reporter()), tmp_path / "run")
    trainer = Trainer(job, start_accelerator(config.train, None), ranks, Reporter())
    learning.updates(trainer, 1)
    return trainer


@contextmanager
def small_files() -> Iterator[None]:
    """Limit files to 4096 bytes, which a writer sees as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(trainer: Trainer, ranks: Ranks, tmp_path: Path) -> None:
    before = left(tmp_path)
    with small_files():  # not longer, as the log of the tests may be a file too
        check, _ = machine.disk(tmp_path / "run", trainer, ranks)
    assert check.state == FAILED
    assert "cannot save a checkpoint" in check.finding
    assert left(tmp_path) == before


def test_disks(
    trainer: Trainer, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(output: Path) -> Check:
        before = left(tmp_path)
        check, _ = machine.disk(output, trainer, ranks)
        assert left(tmp_path) == before
        return check

    output = tmp_path / "run"
    assert found(output).state == OK
    file = tmp_path / "file"
    file.write_text("text")
    assert found(file / "run").state == FAILED
    assert "is no folder" in found(file).finding
    output.mkdir()
    assert found(output).state == OK
    (output / "notes").write_text("text")
    assert "holds no run" in found(output).finding
    (output / "config.yaml").write_text("seed: 0")
    again = found(output)
    assert again.state == WARNING
    assert "--resume" in again.finding
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert "keep_checkpoints" in found(tmp_path / "new").finding
        assert found(tmp_path / "new").state == FAILED
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: None)
        assert "have no effect" in found(tmp_path / "new").finding
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: _cut_short(tmp_path))
        damaged = found(tmp_path / "new")
    assert damaged.state == FAILED
    assert "a checkpoint read back differs" in damaged.finding


def _cut_short(folder: Path) -> None:
    """Truncate the weights of every checkpoint, as a disk with unreliable sync would."""
    for path in folder.rglob("model.safetensors"):
        os.truncate(path, 100)


def test_which_checkpoints_and_evaluations_a_run_makes(trainer: Trainer) -> None:
    changed = {"steps": 25, "checkpoint_every": 10}
    trainer.config = dataclasses.replace(trainer.config, **changed)  # type: ignore[arg-type]
    assert machine.saved_steps(trainer).tolist() == [10, 20, 25]
    trainer.job = SimpleNamespace(evaluation="some", evaluate_every=6)  # type: ignore[assignment]
    assert machine.evaluated_steps(trainer) == [6, 12, 18, 24, 25]
    assert machine.saved_steps(trainer).tolist() == [6, 10, 12, 18, 20, 24, 25]
    assert [duration(s) for s in (4.567, 600, 7200 * 2, 864000)] == [
        *("4.57 s", "10 min", "4 h", "10.0 days")
    ]


def test_simulators(
    write_d4rl: Callable[..., Path], ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(write_d4rl())

    def found(asked: int, env_id: str | None) -> Check:
        evaluation = dataclasses.replace(config.evaluation, episodes=asked, env_id=env_id)
        problem = prepare(dataclasses.replace(config, evaluation=evaluation), Reporter())
        return machine.simulator(problem, asked, ranks)

    assert found(3, None).state == OK
    assert "not needed" in found(0, None).finding
    assert "Hoper-v4" in found(3, "Hoper-v4").finding
    assert found(3, "HalfCheetah-v4").state == FAILED
    import gymnasium
    import gymnasium.envs.mujoco.hopper_v4 as hopper

    gymnasium.register("Endless-v0", hopper.HopperEnv)
    endless = found(3, "Endless-v0")
    assert endless.state == WARNING
    assert "no time limit, so episodes are truncated after 1,000 steps" in endless.finding
    del gymnasium.registry["Endless-v0"]

    def explode(*_: Any) -> None:
        raise RuntimeError("the simulation is unstable")

    monkeypatch.setattr(hopper.HopperEnv, "step", explode)
    broken = found(3, None)
    assert broken.state == FAILED
    assert "at step 1 of the episode of seed" in broken.finding
    assert "RuntimeError: the simulation is unstable" in broken.finding
    monkeypatch.setattr(hopper.HopperEnv, "__init__", lambda *_, **__: explode())
    assert found(3, "Hopper-v4").state == FAILED


def test_a_known_task_without_an_environment(write_d4rl: Callable[..., Path], ranks: Ranks) -> None:
    config = tiny(write_d4rl(name="kitchen-partial-v0.hdf5", sizes=(60, 9)))
    evaluation = dataclasses.replace(config.evaluation, episodes=2)
    problem = prepare(dataclasses.replace(config, evaluation=evaluation), Reporter())
    check = machine.simulator(problem, 2, ranks)
    assert check.state == WARNING
    assert "no environment is available for kitchen" in check.finding


def test_training_that_is_not_as_it_should_be(
    trainer: Trainer, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert learning.model(trainer, ranks).state == OK
    with monkeypatch.context() as patch:
        patch.setattr(os, "sysconf", lambda _: 100)
        assert learning.model(trainer, ranks).state == WARNING
    batch = trainer.update.source.batch

    def slow(ids: Any) -> Any:
        clock[0] += 1
        return batch(ids)

    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    trainer.update.source.batch = slow  # type: ignore[method-assign]
    assert learning.throughput(trainer, ranks)[0].state == WARNING
    trainer.config = dataclasses.replace(trainer.config, parallel="fsdp")
    whole = learning.replicas(trainer, ranks)
    assert whole.state == FAILED
    assert "is not sharded" in whole.finding
