"""Our own model, as `decision-seq train` runs it in fp32."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import protocol
import torch
from accelerate import Accelerator

from decision_seq import __version__
from decision_seq.data.conditioning import ReturnToGo, label
from decision_seq.data.sampler import WindowGatherer, WindowIndex, window_ids
from decision_seq.data.store import EpisodeStore
from decision_seq.data.writer import StoreWriter
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.train import TrainConfig, masked_mean
from decision_seq.train.parallel import distribute
from decision_seq.train.source import HostSource
from decision_seq.train.update import Update
from decision_seq.types import Episode, Spec

SEED = 0


def write_store(path: Path) -> EpisodeStore:
    """The driver's episodes, as a store."""
    with np.load(sys.argv[1]) as data, StoreWriter(path) as writer:
        columns = (data["observations"], data["actions"], data["rewards"])
        for observations, actions, rewards in zip(*columns, strict=True):
            writer.append(Episode(observations, actions, rewards, True, False))
        steps = data["rewards"].size
        writer.finish(
            "bench",
            {"kind": "bench", "description": "random numbers"},
            env_id=None,
            family=None,
            max_episode_steps=protocol.LENGTH,
            transitions_in=steps,
            has_timeouts=True,
        )
    return EpisodeStore.open(path)


def main(folder: Path) -> None:
    protocol.use_threads()
    torch.manual_seed(SEED)
    store = write_store(folder / "store")
    spec = Spec((protocol.OBSERVATION,), protocol.ACTION, "continuous", 1, protocol.LENGTH)
    policy = DecisionTransformerConfig().build(spec)  # its defaults are the paper's sizes
    conditions = label(store, ReturnToGo(protocol.SCALE))
    policy.fit(store, conditions)
    accelerator, config = Accelerator(cpu=True), TrainConfig(batch_size=protocol.BATCH)
    optimizer = torch.optim.AdamW(
        policy.parameters(), protocol.LEARNING_RATE, weight_decay=protocol.WEIGHT_DECAY, fused=True
    )
    index = WindowIndex(store.offsets)
    source = HostSource(
        WindowGatherer(store, conditions, protocol.CONTEXT, protocol.LENGTH), accelerator.device
    )
    model = distribute(policy.train(), config, accelerator)
    whole = Update(config, SEED, policy, model, optimizer, index, source, accelerator)
    batch = source.batch(window_ids(SEED, 0, protocol.BATCH, index))
    generator = torch.Generator()
    done = 0

    def update() -> float:
        loss = masked_mean(policy(batch, generator)["action"], batch.mask)
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
