"""Several ranks of one training on this machine, without a launcher's processes and imports.

They are forked from a process that has imported the product once, and are given what torchrun gives
its processes. Launchers themselves are tested in `test_distributed.py` and `test_cluster.py`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.waiting import LIMIT

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["torch", "accelerate", "mujoco", "decision_seq.runs.experiment", "decision_seq.commands.train"]
)


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
                *(os.getcwd(), list(arguments), outputs, witness, before),
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
