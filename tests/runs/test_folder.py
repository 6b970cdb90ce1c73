"""Tests of a run's folder: its lock, and what happens where it is moved, removed or a link."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq import checkpoint
from decision_seq.runs import experiment
from decision_seq.runs.folder import LOCK, held, require_idle
from decision_seq.training.update import Update
from decision_seq.types import UserError
from tests.test_train import tiny

Change = Callable[[Path], object]


def test_a_removed_lock_protects_the_folder_still(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / LOCK).unlink()
        with (
            pytest.raises(UserError, match=f"another process is training in {tmp_path}"),
            held(tmp_path),
        ):
            pass
        with pytest.raises(UserError, match="another process is training"):
            require_idle(tmp_path)
    with held(tmp_path):
        pass


def test_who_holds_the_lock_is_named(tmp_path: Path) -> None:
    with (
        held(tmp_path),
        pytest.raises(UserError, match=rf"\(process {os.getpid()} on .*\); wait for it"),
    ):
        require_idle(tmp_path)
    require_idle(tmp_path)
    require_idle(tmp_path / "none")


def test_a_disk_without_locks_of_folders_has_those_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def flock(handle: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(9, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path), pytest.raises(UserError, match="another process is training"):
        require_idle(tmp_path)


def test_a_link_or_a_pipe_as_a_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot write in"), held(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "run" / LOCK).unlink()
    os.mkfifo(tmp_path / "run" / LOCK)
    with held(tmp_path / "run"):
        pass


def move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def move_and_make_again(run: Path) -> None:
    move(run)
    run.mkdir()


@pytest.mark.parametrize(
    ("change", "trackers"),
    [(move, []), (move_and_make_again, ["tensorboard"]), (shutil.rmtree, ["tensorboard"])],
)
def test_a_run_whose_folder_goes_stops(
    change: Change,
    trackers: list[str],
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, update = tmp_path / "run", Update.__call__

    def changed(self: Update, step: int, *more: object) -> object:
        if step == 15:
            change(run)
        return update(self, step, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Update, "__call__", changed)
    with pytest.raises(UserError, match=f"{run} was moved or removed during the run"):
        experiment.train(tiny(write_d4rl(), trackers=trackers), run)
    assert not run.exists() or not any(run.iterdir())
    if (tmp_path / "moved").exists():
        saved = checkpoint.checkpoints(tmp_path / "moved" / "checkpoints")
        assert [path.name for path in saved] == ["step-00000010"]
        assert checkpoint.fault(saved[0]) is None


def test_the_checkpoints_of_another_run_are_not_pruned(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    made = tiny(write_d4rl(), steps=20)
    experiment.train(made, tmp_path / "other")
    before = sorted((tmp_path / "other").rglob("*"))
    linked = tmp_path / "linked"
    shutil.copytree(tmp_path / "other", linked)
    shutil.rmtree(linked / "checkpoints")
    (linked / "checkpoints").symlink_to(tmp_path / "other" / "checkpoints")
    with pytest.raises(UserError, match="checkpoints is a link; training writes"):
        experiment.train(made, linked, "must")
    with pytest.raises(UserError, match="is a link"):
        checkpoint.prune(linked / "checkpoints", 40, 1, 0, None)
    assert sorted((tmp_path / "other").rglob("*")) == before


def test_a_link_in_the_place_of_a_partial_checkpoint(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    (precious / "trainer").mkdir(parents=True)
    run = tmp_path / "run"
    made = tiny(write_d4rl(), steps=10)
    experiment.train(made, run)
    (run / "checkpoints" / ".partial-step-00000020").symlink_to(precious)
    experiment.train(tiny(Path(made.dataset), steps=10), run, "must")
    assert not (run / "checkpoints" / ".partial-step-00000020").exists()
    assert [path.name for path in precious.rglob("*")] == ["trainer"]


def test_a_strangers_links_do_not_lead_to_the_users_files(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    """Every fixed temporary name of earlier versions, and the files that training appends to."""
    run = tmp_path / "run"
    made = tiny(write_d4rl(), steps=10)
    experiment.train(made, run)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("metrics.jsonl", "scores.json", "provenance.json", "config.yaml"):
        (run / f".{name}.partial").symlink_to(precious)
    log = run / "metrics.jsonl"
    precious.write_bytes(log.read_bytes())
    log.unlink()
    log.symlink_to(precious)
    before = precious.read_bytes()
    experiment.train(made, run, "must")
    assert precious.read_bytes() == before
    assert json.loads((run / "provenance.json").read_text())["resumed"]
