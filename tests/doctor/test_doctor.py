"""Tests of `decision-seq doctor`: healthy setups pass, and every check fails on a real fault."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch.distributed import HashStore

from decision_seq import cli, doctor
from decision_seq.doctor import learning, machine
from decision_seq.doctor.check import FAILED, OK, WARNING, Check, everywhere
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config, Problem, prepare
from decision_seq.training import Ranks
from decision_seq.types import Reporter, UserError
from tests.ranks import run_together
from tests.test_distributed import port
from tests.test_train import TINY, tiny
from tests.waiting import LIMIT

NAMES = ["launch", "clock", "trackers", "data", "simulator", "windows", "model", "replicas"]
NAMES += ["repeat", "disk", "throughput", "whole run"]
ALONE = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True)


def arguments(tmp_path: Path, dataset: Path, episodes: int = 0, *more: str) -> list[str]:
    recipe = tmp_path / "doctor.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "evaluation": {"episodes": episodes}}))
    output = tmp_path / "runs" / "mine"
    given = ["--config", str(recipe), "--dataset", str(dataset), "--output", str(output)]
    return ["doctor", *given, "--json", *more]


def states(text: str) -> dict[str, str]:
    return {check["name"]: check["state"] for check in json.loads(text)}


def left(tmp_path: Path) -> set[Path]:
    return {path for path in tmp_path.rglob("*") if "stores" not in path.parts}


def test_a_healthy_machine(
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    still = SimpleNamespace(**{**vars(time), "time": lambda: 50.0})  # an exchange takes no time
    monkeypatch.setattr(machine, "time", still)
    typed = arguments(tmp_path, write_d4rl(), 2)
    before = left(tmp_path)
    assert cli.main(typed) == 0
    checks = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in checks] == NAMES
    assert {c["state"] for c in checks if c["name"] != "throughput"} == {OK}, checks
    assert "1 evaluation(s)" in checks[-1]["finding"]
    assert left(tmp_path) == before
    assert cli.main([*typed, "--processes", "2"]) == 2
    assert "2 processes were asked for, but 1 train together" in capsys.readouterr().err


def test_two_healthy_processes(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    typed = arguments(tmp_path, write_d4rl(), 2, "--processes", "2")
    before = left(tmp_path)
    run = run_together(2, typed, port(), tmp_path / "stores" / "said")
    assert run.codes == [0, 0], run.said
    found = {check["name"]: check for check in json.loads(run.printed)}
    assert list(found) == NAMES
    assert FAILED not in states(run.printed).values(), run.printed
    assert "after 3 updates 2 processes hold the same parameters" in found["replicas"]["finding"]
    assert "gloo" in found["launch"]["finding"]
    assert left(tmp_path) == before


BROKEN = """
import os, secrets, sys, time
from types import SimpleNamespace
import decision_seq.training.update as update
from decision_seq.doctor import machine
from decision_seq.policies import Policy

cut = update.rank_slice
update.rank_slice = lambda ids, rank, world: cut(ids, 0, world)
ahead = SimpleNamespace(**vars(time))
ahead.time = lambda: 100.0 * int(os.environ["RANK"])
machine.time = ahead
if os.environ["RANK"] == "1":
    update.update_seeds = lambda *place: (secrets.randbits(60), secrets.randbits(60))

    def drift(policy):
        next(policy.parameters()).data += 1e-3

    Policy.after_step = drift
"""


def test_a_rank_that_goes_its_own_way(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    """One of two ranks has other weights, dropout and time; the windows are the same."""
    typed = arguments(tmp_path, write_d4rl(), 0, "--processes", "2")
    run = run_together(2, typed, port(), tmp_path, before=BROKEN)
    assert 0 not in run.codes
    found = {check["name"]: check for check in json.loads(run.printed)}
    assert found["windows"]["state"] == FAILED
    assert found["replicas"]["state"] == FAILED
    assert found["repeat"]["state"] == WARNING
    assert "other losses" in found["repeat"]["finding"]
    assert found["clock"]["state"] == WARNING
    assert "rank 1 is 100.0 s ahead of rank 0" in found["clock"]["finding"]
    assert not (tmp_path / "runs").exists()


def two(act: Callable[[Ranks], Any]) -> list[Any]:
    """Run `act` on two ranks, as threads over a store of this process; fail if one hangs."""
    store, said = HashStore(), {}

    def run(rank: int) -> None:
        ranks = object.__new__(Ranks)
        ranks.rank, ranks.world, ranks.is_main = rank, 2, rank == 0
        ranks._store, ranks._calls = store, 0
        said[rank] = act(ranks)

    threads = [
        threading.Thread(target=run, args=[r], name=f"rank {r}", daemon=True) for r in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(said) == [0, 1]
    return [said[0], said[1]]


def on_rank_1() -> bool:
    return threading.current_thread().name == "rank 1"


def test_a_check_that_fails_on_one_rank_fails_on_all() -> None:
    def act() -> Check:
        if on_rank_1():
            raise OSError(28, "No space left on device")
        return Check("x", OK, "fine")

    found = two(lambda ranks: everywhere(ranks, "x", act))
    assert found == [Check("x", FAILED, "rank 1: No space left on device")] * 2


@pytest.mark.parametrize("absent", [False, True])
def test_a_rank_with_other_data(
    absent: bool, write_d4rl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, other = tiny(write_d4rl()), tiny(write_d4rl((50, 20), "hopper_expert-v2.hdf5"))
    prepare(config, Reporter())

    def here(asked: Config, reporter: Reporter) -> Problem:
        if absent:
            raise UserError("the disk of rank 1 is empty")
        return prepare(other, reporter)

    monkeypatch.setattr(experiment, "prepare", here)  # called by all ranks but the main one
    for check, problem in two(lambda ranks: doctor.data(config, ranks, Reporter())):
        assert problem is None
        assert check.state == FAILED
        named = "the disk of rank 1 is empty" if absent else "rank 1 are not those of rank 0"
        assert named in check.finding


def test_a_rank_with_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    config, cpu = Config(), torch.device("cpu")
    monkeypatch.setattr(machine, "version", lambda name: "0.1" if on_rank_1() else "0.2")
    for check in two(lambda ranks: machine.launch(config, ranks, cpu, 2)):
        assert check.state == FAILED
        assert "rank 1 runs decision-seq 0.1, rank 0 0.2" in check.finding
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "10000")
    crowded = machine.launch(config, Ranks(ALONE), cpu, None)  # type: ignore[arg-type]
    assert crowded.state == WARNING
    assert "set OMP_NUM_THREADS=1" in crowded.finding


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(**changed: Any) -> None:
        kept = {"time": lambda: 50.0, "monotonic": time.monotonic, "sleep": time.sleep}
        monkeypatch.setattr(machine, "time", SimpleNamespace(**{**kept, **changed}))

    fake()
    assert [check.state for check in two(machine.clock)] == [OK, OK]
    fake(time=lambda: 50.0 - 3 * on_rank_1())
    for check in two(machine.clock):
        assert check.state == WARNING
        assert "rank 0 is 3.0 s ahead of rank 1" in check.finding
    fake(monotonic=lambda: 5.0 if on_rank_1() else time.monotonic())
    for check in two(machine.clock):
        assert (check.state, check.finding) == (FAILED, "rank 1: the monotonic clock stops")


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    gone = lambda name, *a: None if name == "tensorboard" and on_rank_1() else find(name, *a)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", gone)
    for check in two(lambda ranks: machine.trackers(Config(), ranks)):
        assert check.state == FAILED
        assert "rank 1: config: train.trackers tensorboard is not installed" in check.finding


def test_a_loss_that_is_not_finite(
    write_d4rl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wild = ("--train.learning_rate", "1e30", "--train.warmup_steps", "0")
    assert cli.main(arguments(tmp_path, write_d4rl(), 0, *wild)) == 2
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["repeat"]["state"] == FAILED
    assert "not finite" in checks["repeat"]["finding"]


def test_an_update_that_does_not_fit(
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(learning, "updates", too_large)
    assert cli.main(arguments(tmp_path, write_d4rl())) == 2
    assert json.loads(capsys.readouterr().out)[-1]["name"] == "updates"


def test_a_model_that_cannot_be_built(
    write_d4rl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The table ends with the failed check, and the exit code is 2."""
    typed = arguments(tmp_path, write_d4rl(), 0, "--policy.encoder.name", "image")
    typed.remove("--json")
    assert cli.main(typed) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("model      FAILED   the encoder `image` needs frames")
    assert lines[0].startswith("launch     ok       1 process trains on cpu")
