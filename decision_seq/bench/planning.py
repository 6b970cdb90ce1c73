"""Planning with the Trajectory Transformer, beside the same model without a cache.

Without one, every token that is drawn costs a pass over all tokens before it, as in the original's
search (jannerm/trajectory-transformer trajectory/search).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq.bench.training import prepare
from decision_seq.planner import PlannerConfig, plan
from decision_seq.policies.imagination import Imagination
from decision_seq.policies.tt import TrajectoryTransformer, TrajectoryTransformerConfig
from decision_seq.report import table
from decision_seq.types import Reporter, Sampling, Spec

OBSERVATION, ACTION, LENGTH = 11, 3, 1000  # hopper's
BEAMS, EXPAND, CONTEXT = 32, 2, 5
HORIZONS, ENVIRONMENTS = (5, 15), (1, 16)
# Of the profiler: what multiplies matrices.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


class Uncached(Imagination):
    """Reads all over again for every token."""

    def begin(self, tokens: Tensor, lengths: Tensor | None, shared: bool) -> Rereader:
        if lengths is None:
            lengths = torch.full_like(tokens[:, 0], tokens.shape[1])
        goals = self.goals(len(tokens))
        return Rereader(self.policy, tokens, lengths, tokens.shape[1], goals)


class Rereader:
    """tokens [R, L], of which the first lengths [R] were read; count: as many as if all were full,
    which tells what stands next."""

    def __init__(
        self,
        policy: TrajectoryTransformer,
        tokens: Tensor,
        lengths: Tensor,
        count: int,
        goal: Tensor | None,
    ) -> None:
        self.policy, self.goal, self.count = policy, goal, count
        self.tokens, self.lengths = tokens, lengths

    def logits(self) -> Tensor:
        """[R, N + 1] of the token to come."""
        policy, width = self.policy, self.policy.layout.size
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device) % width
        inputs = policy.embedded(self.tokens, columns, self.goal)
        hidden = policy.backbone(inputs + policy.positions[: inputs.shape[1]])
        rows = torch.arange(len(hidden), device=hidden.device)
        newest = hidden[rows, policy.goal + self.lengths - 1]
        return newest @ policy.heads[self.count % width].T

    def read(self, tokens: Tensor) -> None:
        """The next token of each row, [R]."""
        grown = torch.cat([self.tokens, self.tokens[:, :1]], 1)
        rows = torch.arange(len(grown), device=grown.device)
        grown[rows, self.lengths] = tokens
        self.tokens, self.lengths, self.count = grown, self.lengths + 1, self.count + 1

    def fork(self, copies: int) -> None:
        """Every row becomes so many, side by side."""
        self._take(lambda rows: rows.repeat_interleave(copies, 0))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self._take(lambda every: every[rows])

    def _take(self, rows: Callable[[Tensor], Tensor]) -> None:
        self.tokens, self.lengths = rows(self.tokens), rows(self.lengths)
        if self.goal is not None:
            self.goal = rows(self.goal)


def bench_planning(
    rounds: int, threads: int | None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Milliseconds a plan, of hopper's dimensions, 4 layers, 128 wide: untrained weights plan as
    long as trained ones. Rounds are interleaved: every entrant takes its turn in each."""
    prepare(rounds, threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = make_policy().to(device).eval()
    entrants = {
        (horizon, count, model): _entrant(policy, horizon, count, model)
        for horizon in HORIZONS
        for model, counts in ((Uncached, (1,)), (Imagination, ENVIRONMENTS))
        for count in counts
    }
    seconds: dict[tuple, list[float]] = {key: [] for key in entrants}
    with (reporter or Reporter()).bar("bench", "plan", (1 + rounds) * len(entrants)) as bar:
        for number in range(1 + rounds):  # the first to warm up
            for key, entrant in entrants.items():
                took = _timed(entrant, device)
                if number:
                    seconds[key].append(took)
                bar.update()
    return {
        "what": f"plans of {BEAMS} beams, {EXPAND} expansions, context {CONTEXT}",
        "model": f"{OBSERVATION} + {ACTION} + 2 dimensions, 4 layers, 128 wide, window of 10",
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "rows": [
            {
                "horizon": key[0],
                "environments": key[1],
                "cache": key[2] is Imagination,
                "median_ms": float(np.median(took) * 1e3),
                "ms_per_environment": float(np.median(took) * 1e3 / key[1]),
                "speed": float(
                    np.median(np.array(seconds[key[0], 1, Uncached]) / np.array(took)) * key[1]
                ),
                "products": products_share(entrants[key]) if key[2] is Imagination else None,
            }
            for key, took in seconds.items()
        ],
    }


def planning_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        [
            str(row["horizon"]),
            str(row["environments"]),
            "yes" if row["cache"] else "no",
            f"{row['median_ms']:,.1f}",
            f"{row['ms_per_environment']:,.1f}",
            f"{row['speed']:.1f}",
            "-" if row["products"] is None else f"{row['products']:.0%}",
        ]
        for row in result["rows"]
    ]
    heads = ["horizon", "environments", "cache", "ms/plan", "ms/environment", "speed", "products"]
    about = (
        f"{result['what']}; {result['model']}\n{result['rounds']} interleaved rounds,"
        f" {result['threads']} threads, {result['device']}, torch {result['torch']}; speed: plans"
        " an environment a second against no cache; products: share of the time spent in matrix"
        " products"
    )
    return f"{about}\n\n{table(heads, rows)}"


def make_policy() -> TrajectoryTransformer:
    """An untrained one; its tokenizer tells every bin from every other."""
    torch.manual_seed(0)
    spec = Spec((OBSERVATION,), ACTION, "continuous", 2, LENGTH, discount=0.99)
    policy = TrajectoryTransformerConfig().build(spec)
    policy.tokenizer.fit([np.random.default_rng(0).normal(size=(10_000, 16))], "quantile")
    return policy


def _entrant(
    policy: TrajectoryTransformer, horizon: int, count: int, model: type[Imagination]
) -> Callable[[], Tensor]:
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


def _timed(entrant: Callable[[], Tensor], device: torch.device) -> float:
    started = time.perf_counter()
    entrant()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def products_share(entrant: Callable[[], Any]) -> float:
    """What part of an entrant's time multiplies matrices, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        entrant()
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = {event.key: getattr(event, kind) for event in profiled.key_averages()}
    return sum(times.get(name, 0.0) for name in PRODUCTS) / sum(times.values())
