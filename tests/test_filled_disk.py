"""Slow tests with a run's disk filled, at random moments too (`make test-slow`).

The disk is a part of the memory (tmpfs). Only root can mount it; the tests are skipped otherwise.
DECISION_SEQ_FILLINGS is the number of fillings at random moments, and DECISION_SEQ_FILLINGS_SEED
the seed that draws them.
"""

import contextlib
import os
import pkgutil
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from decision_seq import checkpoint
from decision_seq.cli import main
from tests.alike import require_resumable, require_same
from tests.ranks import Started
from tests.test_train import TINY, command, run_here
from tests.waiting import LIMIT, logged, logging_anew, until

FILLINGS = int(os.environ.get("DECISION_SEQ_FILLINGS", "20"))
SEED = int(os.environ.get("DECISION_SEQ_FILLINGS_SEED", "0"))
STEPS, PAGE = 30, 4096
MEBIBYTES, INODES = 4, 200


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    path = tmp_path / "disk"
    path.mkdir()
    size = f"size={MEBIBYTES}m,nr_inodes={INODES}"
    arguments = ["mount", "-t", "tmpfs", "-o", size, "none", str(path)]
    try:
        mounted = subprocess.run(arguments, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no disk can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(disk: Path, room: int) -> None:
    """Fill the disk but for `room` bytes."""
    with contextlib.suppress(OSError), open(disk / "filler", "ab", buffering=0) as file:
        while True:
            found = os.statvfs(disk)
            free = found.f_bavail * found.f_frsize - room
            if room and free <= 0:
                return
            file.write(bytes(max(PAGE, free)))


def fill_inodes(disk: Path, room: int) -> None:
    """Leave no file that can be made on the disk but `room`."""
    (disk / "fillers").mkdir()
    with contextlib.suppress(OSError):
        while os.statvfs(disk).f_favail > room:
            (disk / "fillers" / str(os.statvfs(disk).f_favail)).touch()


def fill_somehow(disk: Path, moment: random.Random) -> None:
    room = moment.choice([0, 0, 1, 2, 5, 10, 20, 40])
    if moment.random() < 0.2:
        fill_inodes(disk, room // 4)
    else:
        fill(disk, room * PAGE)


def empty(disk: Path) -> None:
    """Remove what filled the disk."""
    (disk / "filler").unlink(missing_ok=True)
    for path in (disk / "fillers").glob("*"):
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        (disk / "fillers").rmdir()


def filled(arguments: list[str], run: Path, said: Path, moment: random.Random) -> str:
    """Start or resume the run and fill its disk -> the line it ended with, empty if it was done."""
    disk, saved = run.parent, checkpoint.checkpoints(run / "checkpoints")
    done = int(saved[-1].name.removeprefix(checkpoint.PREFIX)) if saved else 0
    begun, wanted = logging_anew(run), min(done + moment.randint(1, 12), STEPS)
    before = moment.random() < 0.2  # the first files then meet a full disk
    if before:
        fill_somehow(disk, moment)
    process = Started(arguments[3:], said)
    if not before:
        until(lambda: process.poll() is not None or (begun() and logged(run) >= wanted))
        time.sleep(moment.random() * 0.02)
        fill_somehow(disk, moment)
    code, text = process.wait(LIMIT), said.read_text()
    assert not list(run.rglob(".partial-*")), text
    require_resumable(run)
    empty(disk)
    if code == 0:
        return ""
    lines = [line for line in text.splitlines() if line.startswith("decision-seq: ")]
    assert code == 2, text
    assert "Traceback" not in text, text
    assert len(lines) == 1, text
    assert "No space left on device" in lines[0], text
    return lines[0]


def write_config(folder: Path) -> Path:
    """Configuration of a tiny run that has every file."""
    train = {**TINY["train"], "steps": STEPS, "checkpoint_every": 6, "keep_best": "return"}
    evaluation = {"episodes": 2, "every": 15, "workers": 1, "max_episode_steps": 30}
    tree = {**TINY, "train": train, "evaluation": evaluation, "held_out": 0.3}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return folder / "tiny.yaml"


# Of the first, most writing is of checkpoints; of the second, of the other files.
KINDS = (
    ("--train.checkpoint_every", "2"),
    ("--train.checkpoint_every", "1000", "--evaluation.every", "5"),
)


@pytest.mark.slow
def test_runs_on_a_disk_that_fills_up_end_as_the_uninterrupted_one(
    disk: Path, write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    dataset, config, said = write_d4rl(), write_config(tmp_path), tmp_path / "said"
    wholes = [tmp_path / f"whole{number}" for number in range(len(KINDS))]
    for whole, more in zip(wholes, KINDS, strict=True):
        process = Started(command(whole, dataset, config, *more)[3:], said)
        assert process.wait() == 0, said.read_text()
    moment, lines, kind = random.Random(SEED), [], 0
    while len(lines) < FILLINGS:
        run = disk / f"run{kind}"
        arguments = command(run, dataset, config, *KINDS[kind], "--resume", "auto")
        for _ in range(min(5, FILLINGS - len(lines))):
            line = filled(arguments, run, said, moment)
            if not line:
                break
            lines.append(line)
            (tmp_path / "lines").write_text("\n".join(lines))
        process = Started(arguments[3:], said)
        assert process.wait() == 0, said.read_text()
        require_same(run, wholes[kind])
        shutil.rmtree(run)
        kind = (kind + 1) % len(KINDS)


# A file and what is called right before it is written, in the order of a run.
WRITERS = (
    ("config.yaml", "runs.experiment.save_text"),
    ("provenance.json", "runs.provenance.Launched.record"),
    ("tensorboard", "train.metrics.start_tracker"),
    ("checkpoints", "checkpoint.save"),
    ("evaluations.jsonl", "train.evaluations.Evaluations._append"),
    ("metrics.jsonl", "train.metrics.trim"),
    ("best.json", "train.best.note"),
    ("scores.json", "runs.experiment.scores_json"),
    ("offline.json", "runs.experiment.held_out_scores"),
)


def after_filling(disk: Path, write: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called with the disk filled."""

    def wrapper(*given: Any, **named: Any) -> Any:
        fill(disk, 0)
        return write(*given, **named)

    return wrapper


@pytest.mark.slow
def test_a_disk_full_for_each_writer(
    disk: Path,
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    dataset, config = write_d4rl(), write_config(tmp_path)
    run, whole = disk / "run", tmp_path / "whole"
    more = ("--train.steps", "4", "--train.checkpoint_every", "2", "--evaluation.every", "2")
    run_here(command(whole, dataset, config, *more))
    arguments = command(run, dataset, config, *more, "--resume", "auto")
    for name, place in WRITERS:
        target = f"decision_seq.{place}"
        with monkeypatch.context() as patch:
            patch.setattr(target, after_filling(disk, pkgutil.resolve_name(target)))
            capsys.readouterr()
            code, said = main(arguments[3:]), capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("decision-seq: ")]
        assert code == 2, said
        assert "Traceback" not in said, said
        assert len(lines) == 1, said
        assert name in lines[0]
        assert "No space left on device" in lines[0]
        assert not list(run.rglob(".partial-*"))
        require_resumable(run)
        empty(disk)
    run_here(arguments)
    require_same(run, whole)
