"""Speed, measured side by side: the same batch, optimiser and clipping, interleaved rounds.

Absolute times depend on the machine and on who else uses it; the ratio, taken round by round, is
the figure to quote.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from decision_seq.config import require
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.report import table
from decision_seq.train import masked_mean
from decision_seq.types import Batch, Reporter, Spec

BATCH, CONTEXT, OBSERVATION, ACTION, CLIP = 64, 20, 11, 3, 0.25
WARMUP_ROUNDS = 3


@dataclass(frozen=True)
class Entrant:
    """A model in the comparison: `loss` runs its forward pass."""

    name: str
    model: torch.nn.Module
    loss: Callable[[], torch.Tensor]
    optimizer: torch.optim.Optimizer

    def update(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()


def bench_train(
    rounds: int, threads: int | None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """One update of the paper's model (3 layers, 128 wide, K 20, batch 64, dropout 0.1).

    Compared with transformers' DecisionTransformerModel of the same size, which is trained on the
    same loss. bf16 is by autocast; it is quick only where the processor has bf16 arithmetic.
    """
    prepare(rounds, threads)
    torch.manual_seed(0)
    batch = _batch()
    entrants = [
        _theirs("transformers fp32", batch),
        _ours("decision_seq fp32", batch, bf16=False),
        _ours("decision_seq bf16", batch, bf16=True),
    ]
    times: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    with (reporter or Reporter()).bar("bench", "round", WARMUP_ROUNDS + rounds) as bar:
        for number in range(WARMUP_ROUNDS + rounds):
            for entrant in entrants:
                started = time.perf_counter()
                entrant.update()
                if number >= WARMUP_ROUNDS:
                    times[entrant.name].append(time.perf_counter() - started)
            bar.update()
    base = np.array(times[entrants[0].name])
    return {
        "what": f"one update, batch {BATCH}, K {CONTEXT}, 3 layers, 128 wide, dropout 0.1",
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "rows": [
            {
                "name": name,
                "median_ms": float(np.median(values) * 1e3),
                "min_ms": float(np.min(values) * 1e3),
                "max_ms": float(np.max(values) * 1e3),
                "speed": float(np.median(base / np.array(values))),
            }
            for name, values in times.items()
        ],
    }


def bench_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        [
            row["name"],
            *(f"{row[key]:.1f}" for key in ("median_ms", "min_ms", "max_ms")),
            f"{row['speed']:.2f}",
        ]
        for row in result["rows"]
    ]
    about = (
        f"{result['what']}; {result['rounds']} interleaved rounds, {result['threads']} threads,"
        f" {result['processor']}, torch {result['torch']}"
    )
    return f"{about}\n\n{table(['', 'median ms', 'min', 'max', 'speed'], rows)}"


def prepare(rounds: int, threads: int | None) -> None:
    """Check what was asked for, and take so many threads; None: as many as torch likes."""
    require(rounds >= 1, f"--rounds {rounds} must be at least 1")
    if threads is not None:
        require(1 <= threads <= 1024, f"--threads {threads} must be in [1, 1024]")
        torch.set_num_threads(threads)


def _batch() -> Batch:
    shape = (BATCH, CONTEXT)
    return Batch(
        observations=torch.randn(*shape, OBSERVATION),
        actions=torch.rand(*shape, ACTION) * 2 - 1,
        rewards=torch.randn(*shape),
        conditions=torch.rand(*shape, 1) * 3,
        timesteps=torch.randint(0, 900, (BATCH, 1)) + torch.arange(CONTEXT),
        mask=torch.ones(shape, dtype=torch.bool),
    )


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    """The paper's optimiser; of the trained parameters alone."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, 1e-4, weight_decay=1e-4, fused=True)


def _ours(name: str, batch: Batch, bf16: bool) -> Entrant:
    policy = DecisionTransformerConfig().build(Spec((OBSERVATION,), ACTION, "continuous", 1, 1000))
    generator = torch.Generator()

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            values = policy(batch, generator)["action"]
        return masked_mean(values, batch.mask)

    return Entrant(name, policy.train(), loss, adamw(policy))


def peer_model(observation: int, action: int, max_timestep: int) -> torch.nn.Module:
    """transformers' model of the paper's size."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import DecisionTransformerConfig as TheirConfig
    from transformers import DecisionTransformerModel

    return DecisionTransformerModel(
        TheirConfig(
            state_dim=observation,
            act_dim=action,
            hidden_size=128,
            max_ep_len=max_timestep,
            n_layer=3,
            n_head=1,
        )
    )


def _theirs(name: str, batch: Batch) -> Entrant:
    model = peer_model(OBSERVATION, ACTION, 1000)

    def loss() -> torch.Tensor:
        predicted = model(
            states=batch.observations,
            actions=batch.actions,
            returns_to_go=batch.conditions,
            timesteps=batch.timesteps,
            attention_mask=batch.mask.long(),
        ).action_preds
        return masked_mean((predicted - batch.actions).square().mean(-1), batch.mask)

    return Entrant(name, model.train(), loss, adamw(model))
