"""Tests of runs on a cluster: several machines, lost processes, pre-emption, wrong launches."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from decision_seq.checkpoint import checkpoints, fault
from tests.ranks import run_together
from tests.test_distributed import BIN, CPU, accelerate, port
from tests.test_train import TINY, command, losses, run_here
from tests.waiting import LIMIT, logged, until

FOLDER = Path(__file__).parent.parent / "experiments" / "launch"
EVERY = 50
STEPS = 300  # some seconds of updates, so that a signal arrives during them
HANDLED = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def slow(*values: Any) -> Any:
    """A case for `make test-slow`; a similar one is in the normal suite."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Launch:
    """A running launcher and its output."""

    def __init__(self, arguments: list[str], log: Path, **env: str) -> None:
        self.log = log
        path = f"{env.pop('PATH', BIN)}:{BIN}:{os.environ['PATH']}"
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                arguments,
                env={**os.environ, **CPU, "PATH": path, **env},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        return self.process.wait(LIMIT)

    def until(self, holds: Callable[[], bool]) -> None:
        until(holds, self.process, lambda: self.said)

    def workers(self) -> list[psutil.Process]:
        """The training processes of this launcher."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if "decision_seq" in process.cmdline()[:5]]

    def kill(self) -> None:
        """Kill the launcher and its processes, as the loss of a machine would."""
        if self.process.poll() is None:
            victim = psutil.Process(self.process.pid)
            for process in (victim, *victim.children(recursive=True)):
                process.kill()
        self.process.wait(LIMIT)


Start = Callable[..., Launch]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Function that starts launches; all are ended with the test, passed or failed."""
    launches: list[Launch] = []

    def launch(arguments: list[str], **env: str) -> Launch:
        launches.append(Launch(arguments, tmp_path / f"log-{len(launches)}", **env))
        return launches[-1]

    yield launch
    for under_way in launches:
        under_way.kill()


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    def write(dropout: float, **train: object) -> Path:
        policy = {**TINY["policy"], "backbone": {"layers": 2, "width": 16, "dropout": dropout}}
        path = tmp_path / "config.yaml"
        tree = {**TINY, "policy": policy, "train": {**TINY["train"], "trackers": [], **train}}
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.fixture
def given(write_d4rl: Callable[..., Path], write_config: Callable[..., Path]) -> list[str]:
    """Arguments for a dataset and a run long enough to be interrupted; dropout is on."""
    config = write_config(0.1, steps=STEPS, checkpoint_every=EVERY)
    return ["--config", str(config), "--dataset", str(write_d4rl())]


def elastic(given: list[str], run: Path, *more: str) -> list[str]:
    return [str(FOLDER / "torchrun-elastic.sh"), *given, "--output", str(run), *more]


TRACES: dict[str, dict[int, float]] = {}


@pytest.fixture
def uninterrupted(given: list[str], tmp_path: Path) -> dict[int, float]:
    """The losses of an undisturbed run on two processes, made once for all tests."""
    if "two" not in TRACES:
        run = ["train", *given, "--output", str(tmp_path / "whole")]
        ended = run_together(2, run, port(), tmp_path)
        assert ended.codes == [0, 0], ended.said
        TRACES["two"] = losses(tmp_path / "whole")
        assert list(TRACES["two"]) == list(range(1, STEPS + 1))
    return TRACES["two"]


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def resumptions(run: Path) -> int:
    return len(json.loads((run / "provenance.json").read_text())["resumed"])


def check_stopped(run: Path) -> int:
    """Check that the newest checkpoint is valid and of the last update -> that update."""
    newest = checkpoints(run / "checkpoints")[-1]
    assert fault(newest) is None
    step = int(newest.name.removeprefix("step-"))
    assert step == max(losses(run)) < STEPS
    return step


def test_two_machines_train_one_model(
    write_d4rl: Callable[..., Path],
    write_config: Callable[..., Path],
    start: Start,
    tmp_path: Path,
) -> None:
    """Both machines have their own home and use the configuration for many machines."""
    dataset, config = write_d4rl(), write_config(0.0, precision="fp64")
    one, two, meeting = tmp_path / "one", tmp_path / "two", port()
    run_here(command(one, dataset, config))
    machines = []
    for rank in ("0", "1"):
        launcher = [
            *(str(BIN / "accelerate"), "launch"),
            *("--config_file", str(FOLDER / "accelerate-many-nodes.yml")),
            *("--num_processes", "2", "--num_machines", "2", "--machine_rank", rank),
            *("--main_process_ip", "127.0.0.1", "--main_process_port", meeting),
        ]
        train = command(two, dataset, config, "--processes", "2")[1:]
        machines.append(start([*launcher, *train], HOME=str(tmp_path / f"home-{rank}")))
    assert [machine.wait() for machine in machines] == [0, 0], machines[0].said + machines[1].said
    said = machines[0].said + machines[1].said
    assert said.count("2 processes train together") == 1
    alone, together = losses(one), losses(two)
    assert alone.keys() == together.keys()
    for step, loss in alone.items():
        assert together[step] == pytest.approx(loss, rel=1e-9), step


@pytest.mark.parametrize(
    ("file", "more", "how"),
    [
        slow("accelerate-one-node.yml", (), "DDP"),
        slow("accelerate-fsdp.yml", ("--train.parallel", "fsdp"), "sharded"),
    ],
)
def test_the_configurations_for_one_machine_launch(
    file: str,
    more: tuple[str, ...],
    how: str,
    write_d4rl: Callable[..., Path],
    write_config: Callable[..., Path],
    start: Start,
    tmp_path: Path,
) -> None:
    run, config = tmp_path / "run", write_config(0.0)
    launcher = accelerate("--config_file", str(FOLDER / file), "--num_processes", "2")
    train = command(run, write_d4rl(), config, "--processes", "2", *more)[1:]
    launch = start([*launcher, *train])
    assert launch.wait() == 0, launch.said
    assert f"2 processes train together, {how}" in launch.said
    assert list(losses(run)) == list(range(1, 41))


@pytest.mark.parametrize(
    "number",
    [slow(signal.SIGTERM), slow(signal.SIGUSR1), slow(signal.SIGINT)],
)
def test_a_signal_to_the_launcher_saves_the_update_at_hand(
    number: signal.Signals,
    given: list[str],
    uninterrupted: dict[int, float],
    start: Start,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    arguments = elastic(given, run, "--processes", "2")
    first = start(arguments, PROCESSES="2")
    first.until(lambda: logged(run) > EVERY + 5)
    first.process.send_signal(number)
    assert first.wait() not in (0, 2), first.said
    step = check_stopped(run)
    assert f"stopped by signal {int(number)}; saved" in first.said
    second = start(arguments, PROCESSES="2")
    assert second.wait() == 0, second.said
    assert f"resumed from {run}/checkpoints/step-{step:08d}" in second.said
    assert losses(run) == uninterrupted
    assert resumptions(run) == 1


@pytest.mark.parametrize("victim", [0, slow(1)])
def test_a_lost_process_is_replaced_and_the_run_goes_on(
    victim: int,
    given: list[str],
    uninterrupted: dict[int, float],
    start: Start,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    launch = start(elastic(given, run, "--processes", "2"), PROCESSES="2")
    launch.until(lambda: logged(run) > EVERY + 5)
    before = logged(run)
    [lost] = [one for one in launch.workers() if one.environ()["RANK"] == str(victim)]
    lost.kill()
    assert launch.wait() == 0, launch.said
    assert losses(run) == uninterrupted
    assert resumptions(run) == 1
    [resumed] = re.findall(r"resumed from .*step-(\d+)", launch.said)
    # Updates after the last complete checkpoint are repeated; one may have been in progress.
    assert int(resumed) >= (before - 1) // EVERY * EVERY


@pytest.mark.slow
def test_a_lost_machine_is_done_without(
    write_d4rl: Callable[..., Path],
    write_config: Callable[..., Path],
    start: Start,
    tmp_path: Path,
) -> None:
    """With `--nnodes 1:2` the remaining machine continues alone from the checkpoint."""
    config = write_config(0.0, steps=3 * STEPS, checkpoint_every=EVERY, precision="fp64")
    dataset = write_d4rl()
    one, run = tmp_path / "one", tmp_path / "run"
    run_here(command(one, dataset, config))
    asked = {"NODES": "1:2", "PROCESSES": "1", "LAST_CALL": "60", "ID": "pair"}
    meeting = port()
    asked["ENDPOINT"] = f"127.0.0.1:{meeting}"
    given = ["--config", str(config), "--dataset", str(dataset)]
    head = start(elastic(given, run), **asked)
    head.until(lambda: listens(meeting))  # on loopback, the first machine runs the rendezvous
    other = start(elastic(given, run), **asked)
    head.until(lambda: logged(run) > EVERY + 5)
    assert "2 processes train together" in head.said + other.said
    other.kill()
    assert head.wait() == 0, head.said
    assert "1 process trains" in head.said
    assert "processes 2 -> 1" in head.said
    alone, rest = losses(one), losses(run)
    assert alone.keys() == rest.keys()
    for step, loss in alone.items():
        assert rest[step] == pytest.approx(loss, rel=1e-6), step


SRUN = """#!/bin/bash
# As Slurm's: signals go to every process of the step, but a TERM kills them where they stand.
while [[ $1 == --* ]]; do shift; done
echo "$@" >> "$SLURM_CALLS/srun"
"$@" &
task=$!
trap 'kill -USR1 $task $(pgrep -P $task) 2>/dev/null; again=yes' USR1
trap 'kill -KILL $task $(pgrep -P $task)' TERM
again=yes
while [[ $again ]]; do again=; wait $task; code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$SLURM_CALLS/scontrol"
[[ $1 == show ]] && echo 127.0.0.1
exit 0
"""


@pytest.mark.slow
def test_a_slurm_job_saves_and_requeues_itself(
    given: list[str], uninterrupted: dict[int, float], start: Start, tmp_path: Path
) -> None:
    stubs, calls, run = tmp_path / "stubs", tmp_path / "calls", tmp_path / "run"
    for folder in (stubs, calls):
        folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    job = {
        **{"PATH": str(stubs), "SLURM_CALLS": str(calls), "SLURM_JOB_ID": "77", "PORT": port()},
        **{"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node1", "SLURM_GPUS_ON_NODE": "2"},
        **{"CONFIG": given[1], "DATASET": given[3], "OUTPUT": str(run)},
        "OVERRIDES": f"--train.checkpoint_every {2 * STEPS}",
    }
    batch = ["bash", str(FOLDER / "slurm.sbatch")]
    first = start(batch, **job)
    first.until(lambda: logged(run) > 50)
    first.process.send_signal(signal.SIGUSR1)
    assert first.wait() == 0, first.said
    step = check_stopped(run)
    assert "requeue 77" in (calls / "scontrol").read_text().splitlines()
    second = start(batch, **job, SLURM_RESTART_COUNT="1")
    assert second.wait() == 0, second.said
    assert f"step-{step:08d}" in second.said
    assert losses(run) == uninterrupted
    assert (calls / "scontrol").read_text().count("requeue") == 1
    assert "--processes 2" in (calls / "srun").read_text()


@pytest.mark.parametrize(
    ("launcher", "line"),
    [
        (("--cpu", "--num_processes", "2"), "asked for several processes but started one"),
        slow(
            (
                *("--cpu", "--num_machines", "2", "--num_processes", "2"),
                *("--machine_rank", "0", "--main_process_ip", "127.0.0.1"),
            ),
            "asked for several processes but started one",
        ),
        slow(("--use_fsdp", "--num_processes", "2"), "the launcher asks for Accelerate's FSDP"),
        slow(
            ("--multi_gpu", "--num_processes", "2", "--mixed_precision", "bf16"),
            "the launcher asks for mixed precision bf16, the config for fp32",
        ),
    ],
    ids=["one-process", "one-of-two-machines", "fsdp", "mixed-precision"],
)
def test_a_launch_that_would_do_something_else_is_refused(
    launcher: tuple[str, ...],
    line: str,
    write_d4rl: Callable[..., Path],
    write_config: Callable[..., Path],
    start: Start,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    machines = () if "--num_machines" in launcher else ("--num_machines", "1")
    train = command(run, write_d4rl(), write_config(0.0))[1:]
    launch = start([*accelerate(*launcher, *machines), *train])
    assert launch.wait() != 0
    lines = [text for text in launch.said.splitlines() if text.startswith("decision-seq: ")]
    assert len(lines) == 1, launch.said
    assert line in lines[0]
    assert not run.exists()
