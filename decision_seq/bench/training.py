"""Benchmark of one update against transformers: same batch, optimiser and clipping.

Rounds are interleaved. Absolute times depend on the machine and its load; the ratio, taken round by
round, is the figure to quote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from decision_seq.bench.counting import alone, counted, dt_update_flops
from decision_seq.bench.timing import (
    MEDIANS,
    interleaved,
    machine,
    machine_name,
    prepare,
    rows_text,
)
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.training import masked_mean
from decision_seq.types import Batch, Reporter, Spec

BATCH, CONTEXT, OBSERVATION, ACTION, CLIP = 64, 20, 11, 3, 0.25
WARMUP_ROUNDS = 3
PEER, FP32, BF16 = "transformers fp32", "decision_seq fp32", "decision_seq bf16"
PRODUCTS = ", products alone"


@dataclass(frozen=True)
class Entrant:
    """A model in the comparison."""

    name: str
    """Name of its row."""
    model: torch.nn.Module
    """The model, in training mode."""
    loss: Callable[[], torch.Tensor]
    """Runs the forward pass and returns the loss."""
    optimizer: torch.optim.Optimizer
    """Optimiser of the model's weights."""

    def update(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()


def bench_train(
    rounds: int, threads: int | None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Time one update of the paper's model on a CPU.

    The model has 3 layers, width 128, K 20, batch 64 and dropout 0.1. It is compared with
    transformers' DecisionTransformerModel of the same size and loss, and with the matrix products
    of each of our updates run alone, which are a lower bound. bf16 is by autocast; it is fast only
    where the processor has bf16 arithmetic.
    """
    prepare(rounds, threads)
    facts = machine()
    torch.manual_seed(0)
    entrants = make_entrants(_batch())
    counts = {entrant.name: counted(entrant.update) for entrant in entrants}
    calls: dict[str, Callable[[], Any]] = {}
    for entrant in entrants:
        calls[entrant.name] = entrant.update
        if entrant.name != PEER:
            calls[products_of(entrant.name)] = alone(counts[entrant.name].products)
    timed = interleaved(calls, rounds, WARMUP_ROUNDS, reporter)
    rows = []
    for name, times in timed.items():
        update = name.removesuffix(PRODUCTS)
        gflop = counts[update].flops / 1e9
        row: dict[str, Any] = {"name": name, **times.row(timed[PEER]), "gflop": gflop}
        row["gflop_per_second"] = gflop / row["median_ms"] * 1e3
        row["share"] = times.share_of(timed[update]) if name != update else None
        rows.append(row)
    return {
        "what": f"one update, batch {BATCH}, K {CONTEXT}, 3 layers, 128 wide, dropout 0.1",
        "machine": facts,
        "rounds": rounds,
        "gflop_counted": counts[FP32].flops / 1e9,
        "gflop_by_formula": dt_update_flops(BATCH, CONTEXT, OBSERVATION, ACTION) / 1e9,
        "products": len(counts[FP32].products),
        "rows": rows,
    }


def products_of(name: str) -> str:
    """Name of the row with an entrant's matrix products alone."""
    return f"{name}{PRODUCTS}"


def bench_text(result: dict[str, Any]) -> str:
    """The result as a table, and the row of a speed record."""
    columns = {
        **MEDIANS,
        "gflop": ("GFLOP", ".2f"),
        "gflop_per_second": ("GFLOP/s", ",.0f"),
        "share": ("of update", ".0%"),
    }
    about = (
        f"{result['what']}; {result['rounds']} interleaved rounds; speed: the first row's time by"
        f" this one's, round by round\nour update's {result['products']} matrix products:"
        f" {result['gflop_counted']:.4f} GFLOP counted, {result['gflop_by_formula']:.4f} by formula"
    )
    record = "\n".join(record_lines(result))
    return f"{about}\n\n{rows_text(result['rows'], columns)}\n\nfor a speed record:\n{record}"


def record_lines(result: dict[str, Any]) -> list[str]:
    """The measurement as a Markdown table of one row, for a record of speeds."""
    rows = {row["name"]: row for row in result["rows"]}
    facts, share = result["machine"], rows[products_of(FP32)]["share"]
    cells = {
        "date": facts["date"],
        "commit": facts["commit"] or "unknown",
        "machine": f"{machine_name(facts)}, {facts['threads']} threads",
        "transformers ms": f"{rows[PEER]['median_ms']:.1f}",
        "fp32 ms": f"{rows[FP32]['median_ms']:.1f}",
        "ratio": f"{rows[FP32]['speed']:.2f}",
        "bf16 ms": f"{rows[BF16]['median_ms']:.1f}" + ("" if facts["bf16"] else " (emulated)"),
        "ratio ": f"{rows[BF16]['speed']:.2f}",
        "products share": f"{share:.0%}",
    }
    rule = "|---" * len(cells) + "|"
    return [f"| {' | '.join(map(str.strip, cells))} |", rule, f"| {' | '.join(cells.values())} |"]


def make_entrants(batch: Batch) -> list[Entrant]:
    """The peer's model, then ours in fp32 and bf16."""
    return [
        _theirs(PEER, batch),
        _ours(FP32, batch, bf16=False),
        _ours(BF16, batch, bf16=True),
    ]


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
    """The paper's optimiser, over the parameters that require gradients."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, 1e-4, weight_decay=1e-4, fused=True)


def _ours(name: str, batch: Batch, bf16: bool) -> Entrant:
    policy = DecisionTransformerConfig().build(Spec((OBSERVATION,), ACTION, "continuous", 1, 1000))
    generator = torch.Generator()

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            values = policy(batch, generator).losses["action"]
        return masked_mean(values, batch.mask)

    return Entrant(name, policy.train(), loss, adamw(policy))


def peer_model(observation: int, action: int, max_timestep: int) -> torch.nn.Module:
    """transformers' model of the paper's size."""
    from transformers import DecisionTransformerConfig as TheirConfig
    from transformers import DecisionTransformerModel
    from transformers.utils import logging

    logging.set_verbosity_error()
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
