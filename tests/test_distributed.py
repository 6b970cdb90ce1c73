"""Tests with real launches of two processes on this machine."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.ranks import run_together
from tests.test_train import TINY, command, losses, run_here
from tests.waiting import LIMIT

BIN = Path(sys.executable).parent
CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """float64 is not needed to compare: without dropout, rounding alone differs."""
    policy = {**TINY["policy"], "backbone": {"width": 16, "dropout": 0.0}}
    tree = {**TINY, "policy": policy, "train": {**TINY["train"], "trackers": []}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(launcher: list[str], arguments: list[str]) -> subprocess.CompletedProcess:
    """Run `arguments` under a launcher, without the interpreter, which the launcher adds."""
    return subprocess.run(
        [*launcher, *arguments[1:]],
        env={**os.environ, **CPU},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def accelerate(*more: str) -> list[str]:
    return [str(BIN / "accelerate"), "launch", *more, "--main_process_port", port()]


LAUNCHERS: dict[str, Callable[[], list[str]]] = {
    "accelerate": lambda: accelerate("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    "torchrun": lambda: [str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", port()],
}


ALONE: dict[int, float] = {}  # the losses of one process, the same for every launcher


@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS.keys())
def test_two_processes_train_one_model(
    launcher: Callable[[], list[str]],
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    config: Path,
) -> None:
    """Invariants 5 and 8: a run on two processes equals that on one, to rounding."""
    dataset = write_d4rl()
    one, two = tmp_path / "one", tmp_path / "two"
    if not ALONE:
        run_here(command(one, dataset, config))
        ALONE.update(losses(one))
    run = launch(launcher(), command(two, dataset, config, "--processes", "2"))
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("2 processes train together") == 1
    assert "2 processes ended with the same parameters" in run.stderr
    assert "Warning" not in run.stderr
    together = losses(two)
    assert ALONE.keys() == together.keys()
    for step, loss in ALONE.items():
        assert together[step] == pytest.approx(loss, rel=1e-4), step
    state = json.loads(
        (two / "checkpoints" / "step-00000040" / "trainer" / "state.json").read_text()
    )
    assert state["topology"]["processes"] == 2


def test_a_launch_that_starts_one_process_is_refused(
    write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    """`accelerate launch --cpu --num_processes 2` silently starts a single process."""
    output = tmp_path / "run"
    launcher = accelerate("--cpu", "--num_processes", "2", "--num_machines", "1")
    run = launch(launcher, command(output, write_d4rl(), config, "--processes", "2"))
    assert run.returncode != 0
    assert "2 processes were asked for, but 1 train together" in run.stderr
    assert not output.exists()


def test_a_plain_accelerator_under_torchrun_is_refused(
    write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    """Without cpu=True it would train separate copies; the test makes this mistake on purpose."""
    output = tmp_path / "run"
    arguments = command(output, write_d4rl(), config, "--processes", "2")[3:]
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys, decision_seq.training.launch as t\n"
        "from accelerate import Accelerator\n"
        "t.Accelerator = lambda **options: Accelerator()\n"
        "from decision_seq.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("ACCELERATE_USE_CPU", None)
    run = subprocess.run(
        [*LAUNCHERS["torchrun"](), str(script), *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert run.returncode != 0
    assert "2 processes were asked for, but 1 train together" in run.stderr
    assert not output.exists()


def test_bad_input_ends_every_process_with_one_line(
    write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    missing = tmp_path / "missing.hdf5"
    run = launch(LAUNCHERS["torchrun"](), command(tmp_path / "run", missing, config))
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if line.startswith("decision-seq:")]
    assert len(lines) == 1
    assert "missing.hdf5 does not exist" in lines[0]  # the launcher quotes it at its end
    assert not (tmp_path / "run").exists()


def test_two_ranks_obtain_the_very_scores_of_one(
    write_d4rl: Callable[..., Path], tmp_path: Path, config: Path
) -> None:
    """Episodes are shared out in waves that are the same for every launch; here there are three."""
    run = tmp_path / "run"
    more = ["--evaluation.episodes", "9", "--evaluation.targets", "[300, 100]"]
    arguments = command(run, write_d4rl(), config, *more, "--train.steps", "3")
    run_here(arguments)
    one = json.loads((run / "scores.json").read_text())
    (run / "evaluations.jsonl").unlink()
    again = [*arguments[3:], "--resume", "--processes", "2"]
    ended = run_together(2, again, port(), tmp_path)
    assert ended.codes == [0, 0], ended.said
    two = json.loads((run / "scores.json").read_text())
    assert [t["returns"] for t in two["targets"]] == [t["returns"] for t in one["targets"]]
    assert ended.said.count("another topology (processes 1 -> 2)") == 1
