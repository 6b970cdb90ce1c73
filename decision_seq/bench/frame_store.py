"""Benchmark of a store of frames: its bytes, memory and windows per second."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.bench.sampling import SECONDS, anonymous_memory, gather_for, write_store
from decision_seq.bench.timing import machine
from decision_seq.config import require
from decision_seq.datasets import open_dataset
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.frames import CACHE_MEBIBYTES
from decision_seq.report import table
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.windows import Pool, WindowGatherer
from decision_seq.types import Episode, Reporter

LENGTH, CONTEXT, STACK, SIDE = 1000, 30, 4, 84  # as the Decision Transformer has them for Atari
SPRITES = 8
BATCHES = (64, 128)


def bench_frames(
    transitions: int, dataset: str | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Measure the store of a dataset of frames, or of `transitions` frames with moving squares.

    Each measurement has a process of its own; its anonymous memory (RssAnon) is reported above the
    level after the imports. There are two: with `frame_memory`'s default and with the smallest
    cache.
    """
    facts = machine()
    with _store(transitions, dataset, reporter or Reporter()) as (store, written):
        require(store.stack > 1, f"{store.name} holds no frames; `bench sample` measures vectors")
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            measured = [
                pool.apply(_measure, (store.path, memory, SECONDS))
                for memory in (CACHE_MEBIBYTES, 1)
            ]
        size = sum(file.stat().st_size for file in store.path.glob("*"))
        return {
            "machine": facts,
            "transitions": store.num_transitions,
            "frames": store.source,
            **written,
            "bytes": size,
            "bytes_per_transition": size / store.num_transitions,
            "measured": measured,
        }


@contextmanager
def _store(
    transitions: int, dataset: str | None, reporter: Reporter
) -> Iterator[tuple[EpisodeStore, dict[str, float]]]:
    """The store, and its writing speed where it was written here."""
    if dataset is not None:
        yield open_dataset(dataset), {}
        return
    require(transitions >= LENGTH, f"--transitions {transitions} must be at least {LENGTH}")
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        started = time.perf_counter()
        store = write_moving_squares(Path(folder) / "store", transitions // LENGTH, reporter)
        rate = store.num_transitions / (time.perf_counter() - started)
        yield store, {"write_steps_per_second": rate}


def write_moving_squares(path: Path, episodes: int, reporter: Reporter) -> EpisodeStore:
    """Write a store of synthetic frames: squares that move straight over a fixed background."""
    steps, played = episodes * LENGTH, _moving_squares(episodes)
    return write_store(path, "moving squares", played, steps, reporter, STACK, choices=4)


def _moving_squares(episodes: int) -> Iterator[Episode]:
    rng = np.random.default_rng(0)
    court = np.repeat(np.repeat(rng.integers(0, 200, (21, 21)), 4, 0), 4, 1).astype(np.uint8)
    for _ in range(episodes):
        frames = np.tile(court, (LENGTH, 1, 1))
        places = rng.integers(0, SIDE, (SPRITES, 2))
        speeds = rng.integers(-3, 4, (SPRITES, 2))
        at = (places + np.arange(LENGTH)[:, None, None] * speeds) % (SIDE - 3)
        for row in range(4):
            for column in range(4):
                y, x = at[..., 0] + row - 1, at[..., 1] + column - 1  # [LENGTH, SPRITES]
                frames[np.arange(LENGTH)[:, None], y, x] = 255
        actions = rng.integers(0, 4, LENGTH)
        yield Episode(frames, actions, rng.normal(size=LENGTH), True, False)


def _measure(path: Path, memory: int, seconds: float) -> dict[str, Any]:
    before = anonymous_memory()
    started = time.perf_counter()
    store = EpisodeStore.open(path)
    opened = time.perf_counter() - started
    store.limit_memory(memory)
    gatherer = WindowGatherer(store, label(store, ReturnToGo(1.0)), CONTEXT, LENGTH)
    pool = Pool(store.offsets, len(gatherer.steps))
    rates, most = gather_for(seconds, gatherer, pool, BATCHES, look_every=1)
    return {
        "frame_memory_mib": memory,
        "open_seconds": opened,
        "windows_per_second": rates,
        "anonymous_memory_mb": (most - before) / 1e6,
    }


def frames_text(result: dict[str, Any]) -> str:
    """The result as an aligned table."""
    rows = [
        ["transitions", f"{result['transitions']:,}"],
        ["bytes on the disk, MB", f"{result['bytes'] / 1e6:,.1f}"],
        ["bytes a transition", f"{result['bytes_per_transition']:.0f}"],
    ]
    if "write_steps_per_second" in result:
        rows.append(["written, steps/s", f"{result['write_steps_per_second']:,.0f}"])
    for measured in result["measured"]:
        within = f"within {measured['frame_memory_mib']} MiB"
        rows.append([f"{within}: opened, ms", f"{measured['open_seconds'] * 1e3:.1f}"])
        rows += [
            [f"{within}: windows/s of {CONTEXT} steps, {batch} a batch", f"{rate:,.0f}"]
            for batch, rate in measured["windows_per_second"].items()
        ]
        rows.append(
            [
                f"{within}: anonymous memory above imports, MB",
                f"{measured['anonymous_memory_mb']:.0f}",
            ]
        )
    return f"{result['frames']}\n\n{table(['frames', 'measured'], rows)}"
