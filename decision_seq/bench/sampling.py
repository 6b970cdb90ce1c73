"""Benchmark of a large store: opening time, memory, windows per second."""

from __future__ import annotations

import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.bench.timing import machine
from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.report import table
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.windows import Pool, RandomWindows, WindowGatherer
from decision_seq.types import Episode, Reporter

OBSERVATION, ACTION, LENGTH, CONTEXT = 11, 3, 1000, 20
BATCHES = (64, 1024)
SECONDS = 5.0  # duration of sampling at each batch size


def bench_sampling(transitions: int, reporter: Reporter | None = None) -> dict[str, Any]:
    """Measure a store of `transitions` random transitions of Hopper's sizes in a temporary folder.

    The measurement has a process of its own; its anonymous memory (RssAnon) is reported above the
    level after the imports. The store's statistics are compared with those of all rows at once.
    """
    require(transitions >= LENGTH, f"--transitions {transitions} must be at least {LENGTH}")
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        path = Path(folder) / "store"
        written = write_random_store(path, transitions // LENGTH, reporter or Reporter())
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(_measure, (path, SECONDS))
        error = _statistics_error(EpisodeStore.open(path))
    size = {"transitions": transitions // LENGTH * LENGTH}
    return {"machine": facts, **size, **written, **measured, **error}


def write_random_store(path: Path, episodes: int, reporter: Reporter) -> dict[str, float]:
    """Write a store of random episodes of Hopper's sizes -> its writing speed."""
    rng = np.random.default_rng(0)
    made = (
        Episode(
            rng.normal(3, 2, (LENGTH + 1, OBSERVATION)).astype(np.float32),
            rng.uniform(-1, 1, (LENGTH, ACTION)).astype(np.float32),
            rng.normal(3, 1, LENGTH),
            True,
            False,
        )
        for _ in range(episodes)
    )
    steps, started = episodes * LENGTH, time.perf_counter()
    write_store(path, "random numbers", made, steps, reporter)
    return {"write_steps_per_second": steps / (time.perf_counter() - started)}


def write_store(
    path: Path,
    description: str,
    episodes: Iterable[Episode],
    steps: int,
    reporter: Reporter,
    stack: int = 1,
    **facts: Any,
) -> EpisodeStore:
    """Write a store from an iterable of episodes. facts: see `StoreWriter.finish`."""
    with StoreWriter(path, stack) as writer, reporter.bar("write", "step", steps) as bar:
        for episode in episodes:
            writer.append(episode)
            bar.update(len(episode))
        return writer.finish(
            "bench",
            {"kind": "bench", "description": description},
            env_id=None,
            family=None,
            max_episode_steps=LENGTH,
            transitions_in=steps,
            has_timeouts=True,
            **facts,
        )


def _measure(path: Path, seconds: float) -> dict[str, Any]:
    before = anonymous_memory()
    started = time.perf_counter()
    store = EpisodeStore.open(path)
    opened = time.perf_counter()
    gatherer = WindowGatherer(store, label(store, ReturnToGo(1000.0)), CONTEXT, LENGTH)
    pool = Pool(store.offsets, CONTEXT)
    drawn = RandomWindows(pool, 0, BATCHES[0]).ids(0)
    gatherer.gather(drawn)
    first = time.perf_counter()
    again = time.perf_counter()
    store = EpisodeStore.open(path)
    gatherer = WindowGatherer(store, label(store, ReturnToGo(1000.0)), CONTEXT, LENGTH)
    gatherer.gather(drawn)
    second = time.perf_counter()
    for column in store.columns.values():  # fill the page cache, as a first epoch does
        column.array.view(np.uint8).reshape(-1)[::4096].max()
    rates, most = gather_for(seconds, gatherer, pool, BATCHES, look_every=256)
    return {
        "open_seconds": opened - started,
        "first_batch_seconds": first - started,
        "first_batch_again_seconds": second - again,
        "windows_per_second": rates,
        "anonymous_memory_mb": (max(most, anonymous_memory()) - before) / 1e6,
        "anonymous_memory_at_import_mb": before / 1e6,
    }


def gather_for(
    seconds: float,
    gatherer: WindowGatherer,
    pool: Pool,
    batches: Sequence[int],
    look_every: int,
) -> tuple[dict[str, float], int]:
    """Windows per second for each batch size, and the peak of the anonymous memory.

    seconds: the duration for each size; look_every: batches between two readings of the memory.
    """
    rates, most = {}, 0
    for batch in batches:
        sampler = RandomWindows(pool, 0, batch)
        step, begun = 0, time.perf_counter()
        while step == 0 or time.perf_counter() - begun < seconds:
            gatherer.gather(sampler.ids(step))
            step += 1
            if step % look_every == 0:
                most = max(most, anonymous_memory())
        rates[str(batch)] = step * batch / (time.perf_counter() - begun)
    return rates, most


def anonymous_memory() -> int:
    """Bytes of this process that are not backed by a file (Linux)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _statistics_error(store: EpisodeStore) -> dict[str, float]:
    rows = store.columns["observations"].array.astype(np.float64)
    mean, std = store.observation_statistics
    errors = [np.abs(mean / rows.mean(0) - 1).max(), np.abs(std / rows.std(0) - 1).max()]
    return {"statistics_relative_error": float(max(errors))}


def sampling_text(result: dict[str, Any]) -> str:
    """The result as an aligned table."""
    rows = [
        ["transitions", f"{result['transitions']:,}"],
        ["written, steps/s", f"{result['write_steps_per_second']:,.0f}"],
        ["opened, ms", f"{result['open_seconds'] * 1e3:.1f}"],
        ["first batch, labels made, s", f"{result['first_batch_seconds']:.2f}"],
        ["first batch, labels kept, s", f"{result['first_batch_again_seconds']:.3f}"],
        *(
            [f"windows/s of {CONTEXT} steps, {batch} a batch", f"{rate:,.0f}"]
            for batch, rate in result["windows_per_second"].items()
        ),
        ["anonymous memory above imports, MB", f"{result['anonymous_memory_mb']:.0f}"],
        ["statistics, largest relative error", f"{result['statistics_relative_error']:.1e}"],
    ]
    return table(["store", "measured"], rows)
