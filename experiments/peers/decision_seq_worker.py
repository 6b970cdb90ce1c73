"""Worker for our own model, as `decision-seq train` runs it in fp32."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import protocol
import torch
from accelerate import Accelerator

from decision_seq import __version__
from decision_seq.bench.sampling import write_store
from decision_seq.bench.steps import make_update
from decision_seq.machine.memory import keep_freed
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.training import TrainConfig, masked_mean
from decision_seq.types import Episode, Reporter

SEED = 0


def episodes() -> Iterator[Episode]:
    """The driver's episodes."""
    with np.load(sys.argv[1]) as data:
        columns = (data["observations"], data["actions"], data["rewards"])
        for observations, actions, rewards in zip(*columns, strict=True):
            yield Episode(observations, actions, rewards, True, False)


def main(folder: Path) -> None:
    protocol.use_threads()
    keep_freed()  # as `train` does
    made = list(episodes())
    steps = sum(map(len, made))
    store = write_store(folder / "store", "random numbers", made, steps, Reporter())
    config = TrainConfig(batch_size=protocol.BATCH)
    # The defaults of both configs are the paper's.
    whole = make_update(store, Accelerator(cpu=True), config, DecisionTransformerConfig())
    policy, optimizer = whole.policy.train(), whole.optimizer
    batch = whole.source.batch(whole.sampler.ids(0))
    generator = torch.Generator()
    done = 0

    def update() -> float:
        loss = masked_mean(policy(batch, generator).losses["action"], batch.mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), protocol.CLIP)
        optimizer.step()
        return loss.item()

    def step() -> float:
        nonlocal done
        done += 1
        return whole(done).losses["action"].item()

    protocol.serve(
        __version__,
        sum(weight.numel() for weight in policy.parameters()),
        "",
        {"update": update, "step": step},
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as name:
        main(Path(name))
