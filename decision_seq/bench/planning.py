"""Benchmark of planning with the Trajectory Transformer, with and without a key-value cache.

Without a cache, every drawn token costs a pass over all tokens before it, as in the original's
search (jannerm/trajectory-transformer trajectory/search).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq.bench.counting import product_flops
from decision_seq.bench.timing import best_device, interleaved, machine, prepare
from decision_seq.policies.trajectory_transformer import (
    TrajectoryTransformer,
    TrajectoryTransformerConfig,
)
from decision_seq.policies.trajectory_transformer.imagination import Imagination, TransitionModel
from decision_seq.policies.trajectory_transformer.planner import PlannerConfig, plan
from decision_seq.report import table
from decision_seq.types import Reporter, Sampling, Spec

OBSERVATION, ACTION, LENGTH = 11, 3, 1000  # Hopper's sizes
BEAMS, EXPAND, CONTEXT = 32, 2, 5
HORIZONS, ENVIRONMENTS = (5, 15), (1, 16)
LARGEST = 8  # operators listed besides the products


class Uncached(Imagination):
    """Imagination without a cache: every token re-reads the whole sequence."""

    def begin(self, tokens: Tensor, lengths: Tensor | None, shared: bool) -> Rereader:
        if lengths is None:
            lengths = torch.full_like(tokens[:, 0], tokens.shape[1])
        goals = self.goals(len(tokens))
        return Rereader(self.policy, tokens, lengths, tokens.shape[1], goals)


class Rereader:
    """Cache-free stand-in for the model state of the beam search.

    tokens: [R, L]; lengths: [R], the valid tokens of each row; count: the length of a full row,
    which determines the dimension of the next token.
    """

    def __init__(
        self,
        policy: TransitionModel,
        tokens: Tensor,
        lengths: Tensor,
        count: int,
        goal: Tensor | None,
    ) -> None:
        self.policy, self.goal, self.count = policy, goal, count
        self.tokens, self.lengths = tokens, lengths

    def logits(self) -> Tensor:
        """Logits [R, N + 1] of the next token."""
        policy, width = self.policy, self.policy.layout.size
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device) % width
        inputs = policy.embedded(self.tokens, columns, self.goal)
        hidden, _ = policy.backbone(inputs + policy.positions[: inputs.shape[1]])
        rows = torch.arange(len(hidden), device=hidden.device)
        newest = hidden[rows, policy.goal + self.lengths - 1]
        return newest @ policy.heads[self.count % width].T

    def read(self, tokens: Tensor) -> None:
        """Append the next token of each row, [R]."""
        grown = torch.cat([self.tokens, self.tokens[:, :1]], 1)
        rows = torch.arange(len(grown), device=grown.device)
        grown[rows, self.lengths] = tokens
        self.tokens, self.lengths, self.count = grown, self.lengths + 1, self.count + 1

    def fork(self, copies: int) -> None:
        """Repeat every row `copies` times, copies adjacent."""
        self._take(lambda rows: rows.repeat_interleave(copies, 0))

    def keep(self, rows: Tensor) -> None:
        """Retain the given rows."""
        self._take(lambda every: every[rows])

    def _take(self, rows: Callable[[Tensor], Tensor]) -> None:
        self.tokens, self.lengths = rows(self.tokens), rows(self.lengths)
        if self.goal is not None:
            self.goal = rows(self.goal)


def bench_planning(
    rounds: int, threads: int | None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Milliseconds per plan, for Hopper's dimensions, 4 layers, width 128.

    The weights are untrained; trained ones take as long. The breakdown of the time comes from
    torch's profiler over one plan.
    """
    prepare(rounds, threads)
    device = best_device()
    facts = machine(device)
    policy = make_policy().to(device).eval()
    entrants = {
        (horizon, count, model): plans(policy, horizon, count, model)
        for horizon in HORIZONS
        for model, counts in ((Uncached, (1,)), (Imagination, ENVIRONMENTS))
        for count in counts
    }
    timed = interleaved(entrants, rounds, 1, reporter, device)
    return {
        "what": f"plans of {BEAMS} beams, {EXPAND} expansions, context {CONTEXT}",
        "model": f"{OBSERVATION} + {ACTION} + 2 dimensions, 4 layers, 128 wide, window of 10",
        "machine": facts,
        "rounds": rounds,
        "rows": [
            {
                "horizon": key[0],
                "environments": key[1],
                "cache": key[2] is Imagination,
                **row,
                "ms_per_environment": row["median_ms"] / key[1],
                "speed": times.share_of(timed[key[0], 1, Uncached], inverse=True) * key[1],
                **(costs(entrants[key]) if key[2] is Imagination else {"products": None}),
            }
            for key, times in timed.items()
            for row in [times.row()]
        ],
    }


def planning_text(result: dict[str, Any]) -> str:
    """The result as a table, and the most expensive operators of its last plan."""
    rows = [
        [
            str(row["horizon"]),
            str(row["environments"]),
            "yes" if row["cache"] else "no",
            f"{row['median_ms']:,.1f}",
            f"{row['ms_per_environment']:,.1f}",
            f"{row['speed']:.1f}",
            *(
                ("-", "-")
                if row["products"] is None
                else (f"{row['products']:.0%}", _named(row["operators"][0]))
            ),
        ]
        for row in result["rows"]
    ]
    heads = ["horizon", "environments", "cache", "ms/plan", "ms/environment", "speed", "products"]
    about = (
        f"{result['what']}; {result['model']}\n{result['rounds']} interleaved rounds; speed: plans"
        " an environment a second against no cache; products: share of the time spent in matrix"
        " products; next: the largest other cost"
    )
    last = result["rows"][-1]
    operators = [
        [each["name"], f"{each['share']:.1%}", f"{each['calls']:,}"] for each in last["operators"]
    ]
    below = (
        f"operators other than products, in a plan of horizon {last['horizon']} for"
        f" {last['environments']} environments:\n\n"
        f"{table(['operator', 'of the time', 'calls'], operators)}"
    )
    return f"{about}\n\n{table([*heads, 'next'], rows)}\n\n{below}"


def _named(operator: dict[str, Any]) -> str:
    return f"{operator['name'].removeprefix('aten::')} {operator['share']:.0%}"


def make_policy() -> TrajectoryTransformer:
    """An untrained policy whose tokenizer has distinct bins."""
    torch.manual_seed(0)
    spec = Spec((OBSERVATION,), ACTION, "continuous", 2, LENGTH, discount=0.99)
    policy = TrajectoryTransformerConfig().make(spec)
    policy.tokenizer.fit([np.random.default_rng(0).normal(size=(10_000, 16))], "quantile")
    return policy


def plans(
    policy: TrajectoryTransformer, horizon: int, count: int, model: type[Imagination] = Imagination
) -> Callable[[], Tensor]:
    """A function that plans for `count` environments; every call does the same work."""
    layout, draw = policy.layout, torch.Generator().manual_seed(horizon)
    prefix = torch.randint(100, (count, CONTEXT * layout.size + OBSERVATION), generator=draw)
    prefix = prefix.to(policy.positions.device)
    lengths = torch.full_like(prefix[:, 0], prefix.shape[1])
    config = PlannerConfig(horizon=horizon, beams=BEAMS, expand=EXPAND, context=CONTEXT)
    sampling = Sampling(torch.rand(count, generator=draw).to(prefix.device), 1.0)
    imagined = model(policy, None)

    @torch.inference_mode()
    def run() -> Tensor:
        return plan(imagined, prefix, lengths, layout, config, 10, policy.spec.discount, sampling)

    return run


def product_names() -> set[str]:
    """The operators that multiply matrices, as the profiler writes them: aten::mm for aten.mm."""
    return {str(operator).replace(".", "::") for operator in product_flops()}


def costs(entrant: Callable[[], Any]) -> dict[str, Any]:
    """Breakdown of an entrant's time, by torch's profiler.

    products: the share of matrix products; operators: the largest others, each with its share of
    the time and its number of calls.
    """
    from torch.profiler import ProfilerActivity, profile

    on_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiled:
        entrant()
    kind = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    products = product_names()
    events = sorted(profiled.key_averages(), key=lambda event: -getattr(event, kind))
    total = sum(getattr(event, kind) for event in events)
    shares = [(event.key, getattr(event, kind) / total, event.count) for event in events]
    return {
        "products": sum(share for name, share, _ in shares if name in products),
        "operators": [
            {"name": name, "share": share, "calls": calls}
            for name, share, calls in shares
            if name not in products
        ][:LARGEST],
    }
