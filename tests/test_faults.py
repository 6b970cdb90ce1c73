"""Tests of injected faults during a run: it continues, or stops with one line."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from decision_seq import checkpoint
from decision_seq.datasets import open_dataset
from decision_seq.runs import experiment
from decision_seq.types import UserError
from tests.conftest import Lines
from tests.ranks import Started
from tests.test_distributed import BIN, CPU, port
from tests.test_train import TINY, command, losses, run_here, tiny
from tests.waiting import LIMIT, held, logged, until

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "train": {**TINY["train"], "trackers": []}}))
    return path


WHOLE: dict[int, float] = {}


def whole(dataset: Path, config: Path) -> dict[int, float]:
    """The losses of a run that nothing disturbs; the same in every test, and made once."""
    if not WHOLE:
        run = config.with_name("whole")
        run_here(command(run, dataset, config))
        WHOLE.update(losses(run))
    return WHOLE


# From the second checkpoint on, the operating system limits file sizes, like a full disk.
FULL = """
import resource, signal, sys
from decision_seq import checkpoint
from decision_seq.cli import main

save = checkpoint.save

def refused(*arguments):
    path = save(*arguments)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    return path

checkpoint.save = refused
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_stops_the_run_and_spoils_nothing(
    world: int, write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    script, run = tmp_path / "full.py", tmp_path / "run"
    script.write_text(FULL)
    dataset = write_d4rl()
    open_dataset(str(dataset))
    launcher = [sys.executable]
    if world == 2:
        launcher = [str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", port()]
    arguments = command(run, dataset, config)
    process = subprocess.run(
        [*launcher, str(script), *arguments[3:]],
        env={**os.environ, **CPU},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert process.returncode == (2 if world == 1 else 1), process.stderr  # torchrun returns 1
    said = [line for line in process.stderr.splitlines() if "cannot save a checkpoint" in line]
    assert len(said) == 1
    assert "go on from them with --resume" in said[0]
    assert "decision_seq/train" not in process.stderr  # no traceback from us
    assert [path.name for path in checkpoint.checkpoints(run / "checkpoints")] == ["step-00000010"]
    assert checkpoint.fault(run / "checkpoints" / "step-00000010") is None
    run_here(command(run, dataset, config, "--resume", "auto"))  # with room again, to the end
    assert list(losses(run)) == list(whole(dataset, config))
    if world == 1:  # with dropout, another topology draws other masks
        assert losses(run) == whole(dataset, config)


def test_a_store_deleted_under_the_run_is_still_there_for_it(
    write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    dataset, run = write_d4rl(), tmp_path / "run"
    folder = open_dataset(str(dataset)).path
    arguments, go = command(run, dataset, config), tmp_path / "go"
    process = held(arguments, tmp_path / "held.log", 3, go, **ONE_THREAD)
    shutil.rmtree(folder)
    go.touch()
    assert process.wait(LIMIT) == 0
    assert losses(run) == whole(dataset, config)


# Every reading of the wall clock jumps an hour back or a day ahead.
CLOCK = """
import itertools, sys, time
real, jumps = time.time, itertools.cycle([0, -3600, 86400, -86400])
time.time = lambda: real() + next(jumps)
from decision_seq.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(
    write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    dataset, run = write_d4rl(), tmp_path / "run"
    script = tmp_path / "clock.py"
    script.write_text(CLOCK)
    more = ["--train.trackers", "[tensorboard]"]
    arguments = [sys.executable, str(script), *command(run, dataset, config, *more)[3:]]
    subprocess.run(arguments, check=True, capture_output=True, env=ONE_THREAD)
    assert losses(run) == whole(dataset, config)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["updates_per_second"] > 0
        assert 0 < record["data_wait"] < 1


def test_a_damaged_checkpoint_is_skipped_and_the_run_is_the_same(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    dataset, reporter = write_d4rl(), Lines()
    experiment.train(tiny(dataset), tmp_path / "whole")
    run = tmp_path / "run"
    experiment.train(tiny(dataset, steps=30), run)
    newest = checkpoint.checkpoints(run / "checkpoints")[-1]
    (newest / checkpoint.MOMENTS).write_bytes(b"")
    experiment.train(tiny(dataset), run, "must", reporter=reporter)
    skipped = [line for line in reporter.lines if line.startswith("skipped")]
    assert len(skipped) == 1
    assert skipped[0].startswith(f"skipped the damaged checkpoint {newest}: ")
    assert any(line.endswith("step-00000020") for line in reporter.lines)
    assert losses(run) == losses(tmp_path / "whole")
    assert checkpoint.fault(newest.with_name("step-00000040")) is None


def test_a_folder_is_trained_in_by_one_launch_at_a_time(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = tiny(write_d4rl(), steps=10)
    experiment.train(made, run)
    with open(run / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training in"):
            experiment.train(made, run, "must")
    experiment.train(made, run, "must")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU]
)
def test_a_signal_ends_a_single_process_saved(
    number: int, write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    dataset, run = write_d4rl(), tmp_path / "run"
    arguments = command(run, dataset, config, "--train.steps", "100000")
    process = Started(arguments[3:], tmp_path / "said")
    until(lambda: logged(run) >= 5, process)
    process.send_signal(number)
    assert process.wait() == 128 + number
    said = process.output.read_text()
    assert f"stopped by signal {int(number)}; saved" in said
    saved = checkpoint.checkpoints(run / "checkpoints")[-1]
    assert checkpoint.fault(saved) is None
    assert int(saved.name.removeprefix("step-")) == max(losses(run))
