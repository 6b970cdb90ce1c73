"""Slow test with runs killed at random moments (`make test-slow`).

DECISION_SEQ_KILLED_RUNS is the number of runs, each of which is killed twice.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from decision_seq import checkpoint
from tests.alike import require_resumable, require_same
from tests.ranks import Started
from tests.test_train import TINY, command
from tests.waiting import LIMIT, logged, logging_anew, until

RUNS, STEPS = int(os.environ.get("DECISION_SEQ_KILLED_RUNS", "20")), 60


def killed(arguments: list[str], output: Path, said: Path, moment: random.Random) -> bool:
    """Start or resume the run and kill it -> whether the kill fell into a checkpoint's writing."""
    folder, partial = output / "checkpoints", f"{checkpoint.PARTIAL}*"
    begun, wanted = logging_anew(output), moment.randint(1, STEPS - 5)
    process = Started(arguments[3:], said)
    until(lambda: begun() and logged(output) >= wanted, process, said.read_text)
    if "1" in arguments:  # saves always: at work on a checkpoint, or between two
        until(lambda: process.poll() is not None or any(folder.glob(partial)))
    else:
        time.sleep(moment.random() * 0.02)
    process.kill()
    process.wait(LIMIT)
    require_resumable(output)
    return any(folder.glob(partial))


@pytest.mark.slow
def test_killed_runs_end_as_the_uninterrupted_one(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    """Invariant 6, with dropout; half of the runs save after every update."""
    dataset, config, said = write_d4rl(), tmp_path / "tiny.yaml", tmp_path / "said"
    tree = {**TINY["train"], "steps": STEPS, "trackers": [], "keep_best": "return"}
    evaluation = {"episodes": 2, "every": 25, "workers": 1, "max_episode_steps": 30}
    whole_tree = {**TINY, "train": tree, "evaluation": evaluation, "held_out": 0.3}
    config.write_text(yaml.safe_dump(whole_tree))
    whole, while_saving = {}, 0
    for every in ("7", "1"):
        whole[every] = tmp_path / f"whole{every}"
        more = ["--train.checkpoint_every", every]
        process = Started(command(whole[every], dataset, config, *more)[3:], said)
        assert process.wait() == 0, said.read_text()
    for number in range(RUNS):
        every, moment = "71"[number % 2], random.Random(number)
        run = tmp_path / f"run{number}"
        arguments = command(run, dataset, config, "--train.checkpoint_every", every)
        for _ in range(2):
            while_saving += killed(arguments, run, said, moment)
            arguments = [*arguments, "--resume", "auto"]
        process = Started(arguments[3:], said)
        assert process.wait() == 0, said.read_text()
        require_same(run, whole[every])
    assert while_saving >= RUNS // 7  # otherwise too few kills hit a checkpoint
