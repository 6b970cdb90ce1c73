"""Trainings in processes of their own, without the imports of each.

They are forked from a process that has imported the product once. Several ranks of one training are
given what torchrun gives its processes. Launchers themselves are tested in `test_distributed.py`
and `test_cluster.py`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import decision_seq

LIMIT = 1800.0  # seconds: only a hang takes so long, however busy the machine is

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        *("torch", "torch.utils.flop_counter", "torch._dynamo", "torch.utils.tensorboard"),
        *("accelerate", "mujoco", "gymnasium.envs.mujoco", "h5py"),
        *("decision_seq.runs.experiment", "decision_seq.commands.train"),
    ]
)


class Started:
    """A command in a process of its own, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self, arguments: Sequence[str], output: Path, before: str = "", **env: str
    ) -> None:
        """arguments: those after `decision_seq`; output: file for what it says on both streams."""
        self.output = output
        output.write_text("")
        given = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        rest = (os.getcwd(), list(arguments), (output, output), None, before, decision_seq.__file__)
        self.process = FORKED.Process(target=_rank, args=(given, *rest))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, limit: float = LIMIT) -> int | None:
        self.process.join(limit)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.process.exitcode is None:
            os.kill(self.process.pid or 0, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Ended(NamedTuple):
    """The ends of all ranks."""

    codes: list[int | None]
    """Their exit codes."""
    printed: str
    """Their standard output."""
    said: str
    """Their standard error."""


def run_together(
    world: int,
    arguments: Sequence[str],
    port: str,
    folder: Path,
    witness: Path | None = None,
    before: str = "",
) -> Ended:
    """Run the command line in `world` ranks.

    folder: gets the files of their output; witness: beginning of the files in which every rank
    writes down the windows that it asks for; before: Python that they execute first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = folder / "printed", folder / "said"
    for path in outputs:
        path.write_text("")
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_PORT": port}
    shared |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ranks = [
        FORKED.Process(
            target=_rank,
            args=(
                {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                *(os.getcwd(), list(arguments), outputs, witness, before, decision_seq.__file__),
            ),
        )
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(LIMIT)
        if process.exitcode != 0:
            for other in ranks:
                other.kill()
    codes = [process.exitcode for process in ranks]
    return Ended(codes, outputs[0].read_text(), outputs[1].read_text())


def _rank(
    env: dict[str, str],
    folder: str,
    arguments: list[str],
    outputs: tuple[Path, Path],
    witness: Path | None,
    before: str,
    tested: str | None,
) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for number, path in enumerate(outputs, start=1):
        with open(path, "a") as file:
            os.dup2(file.fileno(), number)
    import torch

    from decision_seq.cli import main
    from decision_seq.sequences.device import HostSource
    from decision_seq.types import Batch

    assert decision_seq.__file__ == tested, "the forked process has imported another package"
    torch.set_num_threads(1)
    if witness is not None:
        gather, path = HostSource.batch, f"{witness}.{env['RANK']}"

        def batch(self: HostSource, ids: object) -> Batch:
            with open(path, "a") as file:
                file.write(json.dumps(ids.tolist()) + "\n")  # type: ignore[attr-defined]
            return gather(self, ids)  # type: ignore[arg-type]

        HostSource.batch = batch  # type: ignore[method-assign]
    exec(before, {})
    sys.exit(main(arguments))
