"""Slow test with twenty runs killed at random moments (`make test-slow`)."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from decision_seq import checkpoint
from tests.test_train import TINY, command, losses
from tests.waiting import LIMIT, logged, until

RUNS, STEPS = 20, 60


def until_or_end(process: subprocess.Popen, holds: Callable[[], bool]) -> None:
    until(lambda: process.poll() is not None or holds())


def killed_and_resumed(
    arguments: list[str], output: Path, moment: random.Random, saves_always: bool
) -> bool:
    """Kill the run twice, then let it end -> whether a kill fell into a checkpoint's writing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while_saving, folder, partial = False, output / "checkpoints", f"{checkpoint.PARTIAL}*"
    for _ in range(2):
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=environment)
        wanted = moment.randint(1, STEPS - 5)
        until_or_end(process, lambda wanted=wanted: logged(output) >= wanted)
        if saves_always:  # at work on a checkpoint, or between two
            until_or_end(process, lambda: any(folder.glob(partial)))
        else:
            time.sleep(moment.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT)
        while_saving |= any(folder.glob(partial))
        for path in checkpoint.checkpoints(folder):
            assert checkpoint.fault(path) is None, path
        arguments = [*arguments, "--resume", "auto"]
    subprocess.run(arguments, check=True, capture_output=True, env=environment)
    return while_saving


@pytest.mark.slow
def test_twenty_killed_runs_end_as_the_uninterrupted_one(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    """Invariant 6, with dropout; half of the runs save after every update."""
    dataset, config = write_d4rl(), tmp_path / "tiny.yaml"
    tree = {**TINY["train"], "steps": STEPS, "trackers": []}
    config.write_text(yaml.safe_dump({**TINY, "train": tree}))
    whole = tmp_path / "whole"
    subprocess.run(
        command(whole, dataset, config),
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def one(number: int) -> bool:
        every = ["--train.checkpoint_every", str(1 if number % 2 else 7)]
        output = tmp_path / f"run{number}"
        arguments = command(output, dataset, config, *every)
        return killed_and_resumed(arguments, output, random.Random(number), bool(number % 2))

    with ThreadPoolExecutor(2) as pool:
        while_saving = list(pool.map(one, range(RUNS)))
    last = Path("checkpoints") / f"step-{STEPS:08d}" / checkpoint.WEIGHTS
    for number in range(RUNS):
        run = tmp_path / f"run{number}"
        assert losses(run) == losses(whole), number
        assert (run / last).read_bytes() == (whole / last).read_bytes(), number
    assert sum(while_saving) >= 3  # otherwise too few kills hit a checkpoint
