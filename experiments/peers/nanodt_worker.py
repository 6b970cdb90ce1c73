"""Worker for nanodt: its model, optimiser and batches, in the order of its trainer's loop.

The loop itself (`DecisionTransformerTrainer.train`) cannot be run for a few updates at a time, so
its body is repeated here from the same parts.
"""

from __future__ import annotations

import os
import sys
import tempfile

import gymnasium
import minari
import numpy as np
import protocol
import torch
from minari.data_collector import EpisodeBuffer
from nanodt.model import DecisionTransformer, DecisionTransformerConfig
from nanodt.trainer import (
    DecisionTransformerDataCollator,
    DecisionTransformerTrainer,
    DecisionTransformerTrainerConfig,
    calculate_dataset_stats,
)
from torch.utils.data import DataLoader, WeightedRandomSampler

NOTES = (
    "requires Python 3.12 but runs without; AdamW not fused; its step reads whole episodes from a"
    " Minari file and cuts them, here within the step; its trainer uses two processes for this"
)


def write_dataset() -> minari.MinariDataset:
    """Write the driver's episodes as a Minari dataset in MINARI_DATASETS_PATH."""
    with np.load(sys.argv[1]) as data:
        columns = (data["observations"], data["actions"], data["rewards"])
        ends = np.arange(1, protocol.LENGTH + 1) == protocol.LENGTH
        buffers = [
            EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=rewards,
                terminations=ends,
                truncations=np.zeros_like(ends),
            )
            for observations, actions, rewards in zip(*columns, strict=True)
        ]
    return minari.create_dataset_from_buffers(
        "bench/random-v0",
        buffers,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (protocol.OBSERVATION,)),
        action_space=gymnasium.spaces.Box(-1, 1, (protocol.ACTION,)),
    )


def batches(dataset: minari.MinariDataset):
    """Iterator over the collator's batches, of episodes drawn in proportion to their lengths."""
    statistics = calculate_dataset_stats(dataset)
    collator = DecisionTransformerDataCollator(
        state_mean=statistics.state_mean,
        state_std=statistics.state_std,
        K=protocol.CONTEXT,
        max_ep_len=protocol.LENGTH,
        reward_scale=protocol.SCALE,
    )
    sampler = WeightedRandomSampler(
        statistics.traj_lens / statistics.traj_lens.sum(), num_samples=10**7, replacement=True
    )
    return iter(DataLoader(dataset, protocol.BATCH, sampler=sampler, collate_fn=collator))


def main() -> None:
    protocol.use_threads()
    torch.manual_seed(0)
    dataset = write_dataset()
    model = DecisionTransformer(
        DecisionTransformerConfig(
            n_layer=protocol.LAYERS,
            n_head=protocol.HEADS,
            n_embd=protocol.WIDTH,
            dropout=protocol.DROPOUT,
            bias=True,
            K=protocol.CONTEXT,
            max_ep_len=protocol.LENGTH,
            state_dim=protocol.OBSERVATION,
            act_dim=protocol.ACTION,
            act_discrete=False,
            act_vocab_size=1,
            act_tanh=False,
            tanh_embeddings=False,
        )
    )
    config = DecisionTransformerTrainerConfig(
        batch_size=protocol.BATCH,
        learning_rate=protocol.LEARNING_RATE,
        weight_decay=protocol.WEIGHT_DECAY,
        grad_clip=protocol.CLIP,
        device="cpu",
    )
    optimizer = DecisionTransformerTrainer(model, dataset, config).configure_optimizers(
        config.weight_decay, config.learning_rate, (config.beta1, config.beta2), config.device
    )
    drawn = batches(dataset)
    batch = next(drawn)

    def update(batch) -> float:
        states, actions, _, returns, timesteps, mask = batch
        _, loss = model(states, actions, returns, timesteps, mask, targets=actions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    protocol.serve(
        "0.1.0",
        sum(weight.numel() for weight in model.parameters()),
        NOTES,
        {"update": lambda: update(batch), "step": lambda: update(next(drawn))},
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as name:
        os.environ["MINARI_DATASETS_PATH"] = name
        main()
