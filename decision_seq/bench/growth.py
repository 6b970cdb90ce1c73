"""Growth of an update's time and memory with the context, the width and the batch.

Every measured slope is listed with that of the FLOPs (`training.throughput`). A flatter measured
slope means that larger sizes use the machine better; a steeper one means that memory is the
bottleneck.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from decision_seq.bench.sampling import LENGTH, write_random_store
from decision_seq.bench.steps import make_update
from decision_seq.bench.timing import interleaved, machine, prepare
from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.machine.memory import keep_freed
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.report import table
from decision_seq.report.plots import COLOURS, drawing
from decision_seq.sequences.device import HostSource
from decision_seq.training import TrainConfig
from decision_seq.training.throughput import cost_of_a_window
from decision_seq.training.update import Update
from decision_seq.types import Reporter

EPISODES, WARMUP_ROUNDS = 20, 1
CONTEXTS, WIDTHS, BATCHES = (20, 50, 100, 200, 500), (128, 256, 512, 1024), (16, 32, 64, 128, 256)
MEMORY_UPDATES = 2  # the first one allocates the optimiser's moments
PLOT = "growth.png"


@dataclass(frozen=True)
class UpdateSize:
    """Size of an update; the rest is as in the paper: 3 layers, dropout 0.1."""

    context: int = 20
    """Steps of a window."""
    width: int = 128
    """Width of the transformer."""
    batch: int = 64
    """Windows of a batch."""


SMALLEST = UpdateSize(context=2, width=8, batch=2)


def bench_growth(
    rounds: int,
    threads: int | None,
    contexts: Sequence[int] = CONTEXTS,
    widths: Sequence[int] = WIDTHS,
    batches: Sequence[int] = BATCHES,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Milliseconds, peak memory and GFLOP of an update, along each of three axes.

    One axis varies at a time. Contexts are measured at a batch of 16, as attention over 500 steps
    is large. Times come from interleaved rounds over all sizes, memory from a fresh process each.
    """
    prepare(rounds, threads)
    _check(contexts, widths, batches)
    reporter = reporter or Reporter()
    axes = {
        "context": [UpdateSize(context=context, batch=16) for context in sorted(set(contexts))],
        "width": [UpdateSize(width=width) for width in sorted(set(widths))],
        "batch": [UpdateSize(batch=batch) for batch in sorted(set(batches))],
    }
    sizes = list(dict.fromkeys(size for series in axes.values() for size in series))
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    facts = machine(accelerator.device)
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        path = Path(folder) / "store"
        write_random_store(path, EPISODES, Reporter())
        updates = {size: _update(path, size, accelerator) for size in sizes}
        flops = {size: _flops(update) * size.batch for size, update in updates.items()}
        calls = {size: _numbering(update) for size, update in updates.items()}
        timed = interleaved(calls, rounds, WARMUP_ROUNDS, reporter, accelerator.device)
        del updates, calls
        memory = {}
        with reporter.bar("memory", "size", len(sizes)) as bar:
            for size in sizes:
                memory[size] = _apart(path, size)
                bar.update()
    return {
        "what": "an update of the paper's model, 3 layers, dropout 0.1, fp32",
        "machine": facts,
        "rounds": rounds,
        "axes": {
            axis: [
                {
                    **vars(size),
                    **timed[size].row(),
                    "gflop": flops[size] / 1e9,
                    "memory_mb": memory[size] / 1e6,
                }
                for size in series
            ]
            for axis, series in axes.items()
        },
    }


def _check(contexts: Sequence[int], widths: Sequence[int], batches: Sequence[int]) -> None:
    limits = {"contexts": LENGTH, "widths": 16_384, "batches": 65_536}
    for (name, most), sizes in zip(limits.items(), (contexts, widths, batches), strict=True):
        for size in sizes:
            require(2 <= size <= most, f"--{name} {size} must be in [2, {most}]")


def growth_text(result: dict[str, Any]) -> str:
    """One table per axis; each slope is from the row above."""
    parts = [
        f"{result['what']}; {result['rounds']} interleaved rounds\nslopes: on log-log paper, from"
        " the size above; expected: that of the FLOPs"
    ]
    head = ["median ms", "min", "max", "slope", "GFLOP", "expected", "peak MB", "slope"]
    for axis, series in result["axes"].items():
        columns = {key: slopes(series, axis, key) for key in ("median_ms", "gflop", "memory_mb")}
        rows = [
            [
                str(row[axis]),
                *(f"{row[key]:,.1f}" for key in ("median_ms", "min_ms", "max_ms")),
                _signed(columns["median_ms"][number]),
                f"{row['gflop']:,.2f}",
                _signed(columns["gflop"][number]),
                f"{row['memory_mb']:,.0f}",
                _signed(columns["memory_mb"][number]),
            ]
            for number, row in enumerate(series)
        ]
        fixed = ", ".join(f"{name} {series[0][name]}" for name in result["axes"] if name != axis)
        parts.append(f"{axis}, at {fixed}\n\n{table([axis, *head], rows)}")
    return "\n\n".join(parts)


def _signed(slope: float | None) -> str:
    return "-" if slope is None else f"{slope:.2f}"


def slopes(series: list[dict[str, Any]], axis: str, key: str) -> list[float | None]:
    """Slopes of log(key) against log(axis), each from the previous size; None for the first."""
    found: list[float | None] = [None]
    for before, after in itertools.pairwise(series):
        rise = math.log(after[key] / before[key]) if before[key] > 0 < after[key] else None
        run = math.log(after[axis] / before[axis])
        found.append(None if rise is None else rise / run)
    return found


def plot_growth(result: dict[str, Any], path: Path) -> None:
    """Plot time with the growth of the FLOPs, and below it memory with that of the size."""
    from matplotlib.ticker import LogLocator, NullLocator

    units = {"context": "steps", "width": "", "batch": "windows"}
    kinds = {"median_ms": "milliseconds an update", "memory_mb": "peak memory, MB"}
    with drawing(path, 2, 3, 5.5, 4.2) as panels:
        for column, (axis, series) in enumerate(result["axes"].items()):
            sizes = [row[axis] for row in series]
            flops = [row["gflop"] / series[0]["gflop"] for row in series]
            for line, (key, said) in enumerate(kinds.items()):
                axes = panels[line, column]
                values = [row[key] for row in series]
                axes.plot(sizes, values, "o-", color=COLOURS[line], label="measured")
                if key == "median_ms":
                    ends = [[row[end] for row in series] for end in ("min_ms", "max_ms")]
                    axes.fill_between(sizes, *ends, color=COLOURS[line], alpha=0.2, linewidth=0)
                growth, label = flops, "as the FLOPs grow"
                if key == "memory_mb":
                    growth, label = [size / sizes[0] for size in sizes], f"as the {axis} grows"
                expected = [values[0] * share for share in growth]
                axes.plot(sizes, expected, "--", color="0.3", label=label)
                axes.set(xscale="log", yscale="log", xlabel=f"{axis} {units[axis]}", ylabel=said)
                axes.set_xticks(sizes, map(str, sizes))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_minor_locator(NullLocator())
                axes.yaxis.set_major_formatter("{x:,g}")
                axes.legend()
        panels[0, 1].set_title(f"an update; band: least and most of {result['rounds']} rounds")


def _update(path: Path, size: UpdateSize, accelerator: Accelerator) -> Update:
    backbone = GPTConfig(width=size.width)
    policy = DecisionTransformerConfig(context_length=size.context, backbone=backbone)
    config = TrainConfig(batch_size=size.batch)
    return make_update(EpisodeStore.open(path), accelerator, config, policy)


def _flops(update: Update) -> float:
    assert isinstance(update.source, HostSource)
    return cost_of_a_window(update.policy, update.source).flops


def _numbering(update: Update) -> Callable[[], None]:
    steps = itertools.count()

    def run() -> None:
        update(next(steps))

    return run


def _apart(path: Path, size: UpdateSize) -> int:
    """`peak_memory` in a fresh process, without memory retained from another size."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_memory, (path, size))


def peak_memory(path: Path, size: UpdateSize) -> int:
    """Peak bytes of the model, its optimiser and its updates, above the level before them."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    on_cuda = accelerator.device.type == "cuda"
    keep_freed()
    # A first update makes torch's one-time allocations, so that they are not counted.
    _update(path, SMALLEST, accelerator)(0)
    before = _resident("VmRSS")
    update = _update(path, size, accelerator)
    for step in range(MEMORY_UPDATES):
        update(step)
    if on_cuda:
        return torch.cuda.max_memory_allocated()
    return max(_resident("VmHWM") - before, 0)


def _resident(what: str) -> int:
    """A memory figure of this process in bytes (Linux). VmRSS: resident now; VmHWM: the peak."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
