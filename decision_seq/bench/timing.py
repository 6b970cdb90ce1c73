"""Shared parts of the benchmarks: facts about the machine, interleaved rounds, medians."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from decision_seq.config import require
from decision_seq.machine.memory import keep_freed
from decision_seq.machine.workers import granted_cores
from decision_seq.report import table
from decision_seq.runs.provenance import commit
from decision_seq.types import Reporter

CPUINFO = Path("/proc/cpuinfo")
Key = TypeVar("Key", bound=Hashable)


def prepare(rounds: int, threads: int | None) -> None:
    """Check the options and set the number of threads; None for torch's default."""
    require(rounds >= 1, f"--rounds {rounds} must be at least 1")
    if threads is not None:
        require(1 <= threads <= 1024, f"--threads {threads} must be in [1, 1024]")
        torch.set_num_threads(threads)
    keep_freed()  # as in training; applies to all entrants


def best_device() -> torch.device:
    """CUDA where available, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Facts about the machine, with its load average of the last minutes.

    bf16: whether the device has bf16 arithmetic; otherwise bf16 is emulated.
    """
    made_of = CPUINFO.read_text() if CPUINFO.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", made_of, re.M)
    flags = re.search(r"^flags\s*:(.*)$", made_of, re.M)
    on_cuda = device is not None and device.type == "cuda"
    hashed, changed = commit()
    return {
        "processor": named[1].strip() if named else platform.processor() or platform.machine(),
        "cores": granted_cores(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False)
        if on_cuda
        else bool(flags and re.search(r"\b(avx512_bf16|amx_bf16)\b", flags[1])),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": None if hashed is None else hashed[:12] + (" and changes" if changed else ""),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def machine_text(facts: dict[str, Any]) -> str:
    """The facts as two lines, for the head of a table."""
    beside = "" if facts["device"] == "cpu" else f"{facts['device']}, beside "
    bf16 = "bf16 arithmetic" if facts["bf16"] else "no bf16 arithmetic"
    loads = ", ".join(f"{load:.1f}" for load in facts["load"])
    return (
        f"machine: {beside}{machine_name(facts)}, {bf16}, {facts['threads']} threads\n"
        f"{facts['date']}, commit {facts['commit'] or 'unknown'}, torch {facts['torch']}, load"
        f" before {loads}"
    )


def machine_name(facts: dict[str, Any]) -> str:
    """The machine's name, such as `AMD EPYC, 2 cores, AVX512`."""
    return f"{facts['processor']}, {facts['cores']} cores, {facts['capability']}"


@dataclass(frozen=True)
class Timed:
    """Times of one entrant."""

    seconds: np.ndarray
    """Seconds of a call, [rounds]."""
    returned: list[list[Any]]
    """Return values of the calls, a list per round."""

    def row(self, base: Timed | None = None) -> dict[str, float]:
        """Median, spread, and the speed relative to `base`, taken round by round."""
        milliseconds = self.seconds * 1e3
        found = {
            "median_ms": float(np.median(milliseconds)),
            "min_ms": float(milliseconds.min()),
            "max_ms": float(milliseconds.max()),
        }
        return found if base is None else {**found, "speed": self.share_of(base, inverse=True)}

    def share_of(self, other: Timed, inverse: bool = False) -> float:
        """Median over the rounds of this time divided by the other's; inverse: the reciprocal."""
        pair = (other.seconds, self.seconds) if inverse else (self.seconds, other.seconds)
        return float(np.median(pair[0] / pair[1]))


def interleaved(
    entrants: Mapping[Key, Callable[[], Any]],
    rounds: int,
    warmup: int,
    reporter: Reporter | None = None,
    device: torch.device | None = None,
    turn: int = 1,
) -> dict[Key, Timed]:
    """Time the entrants in interleaved rounds, so that other load on the machine affects all alike.

    warmup: first rounds, not counted; turn: calls per round, where one call is too short to be
    timed; device: synchronized before and after each turn.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in entrants}
    returned: dict[Key, list[Any]] = {key: [] for key in entrants}
    with (reporter or Reporter()).bar("bench", "turn", (warmup + rounds) * len(entrants)) as bar:
        for number in range(warmup + rounds):
            for key, entrant in entrants.items():
                _wait(device)
                started = time.perf_counter()
                results = [entrant() for _ in range(turn)]
                _wait(device)
                if number >= warmup:
                    seconds[key].append((time.perf_counter() - started) / turn)
                    returned[key].append(results)
                bar.update()
    return {key: Timed(np.array(seconds[key]), returned[key]) for key in entrants}


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_text(rows: list[dict[str, Any]], columns: Mapping[str, tuple[str, str]]) -> str:
    """A table of rows with a `name`. columns: key -> (head, format); `-` for missing values."""
    cells = [
        [
            row["name"],
            *("-" if row.get(k) is None else format(row[k], f) for k, (_, f) in columns.items()),
        ]
        for row in rows
    ]
    return table(["", *(head for head, _ in columns.values())], cells)


MEDIANS = {
    "median_ms": ("median ms", ",.2f"),
    "min_ms": ("min", ",.2f"),
    "max_ms": ("max", ",.2f"),
    "speed": ("speed", ".2f"),
}
