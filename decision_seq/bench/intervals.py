"""Coverage of the intervals that reports use: how often each kind contains the true value."""

from __future__ import annotations

from typing import Any

import numpy as np

from decision_seq.bench.timing import machine
from decision_seq.config import require
from decision_seq.report import table
from decision_seq.report.coverage import (
    GAP,
    IMPROVEMENT,
    IQM,
    MEAN,
    STUDENT,
    Method,
    World,
    simulate,
)
from decision_seq.types import Reporter

TASKS = 9  # as in D4RL's locomotion: three robots, three datasets
# Each kind of interval and the numbers of tasks it is simulated for.
ROWS: tuple[tuple[Method, tuple[int, ...]], ...] = (
    (STUDENT, (1,)),
    (MEAN, (1,)),
    (IQM, (1, TASKS)),
    (GAP, (TASKS,)),
    (IMPROVEMENT, (TASKS,)),
)
SEEDS = (3, 5, 10)
RESAMPLES = 300  # enough for the ends of a 95 % interval; three times faster than in a report


def bench_intervals(draws: int, reporter: Reporter | None = None, seed: int = 0) -> dict[str, Any]:
    """Coverage of 95 % intervals over `draws` simulated experiments a row."""
    require(100 <= draws <= 1_000_000, f"--draws {draws} must be in [100, 1000000]")
    facts, rng = machine(), np.random.default_rng(seed)
    cases = [
        (method, seeds, tasks) for method, counts in ROWS for tasks in counts for seeds in SEEDS
    ]
    rows = []
    with (reporter or Reporter()).bar("bench", "row", len(cases)) as bar:
        for method, seeds, tasks in cases:
            coverage = simulate(method, World.even(tasks, seeds), rng, draws, RESAMPLES)
            rows.append(
                {
                    "statistic": method.statistic,
                    "interval": method.interval,
                    "seeds": seeds,
                    "tasks": tasks,
                    "coverage": coverage,
                }
            )
            bar.update()
    return {
        "what": "share of 95 % intervals that hold the truth, normal scores",
        "machine": facts,
        "draws": draws,
        "resamples": RESAMPLES,
        "seed": seed,
        "rows": rows,
    }


def intervals_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        [
            row["statistic"],
            row["interval"],
            str(row["seeds"]),
            str(row["tasks"]),
            f"{100 * row['coverage']:.1f} %",
        ]
        for row in result["rows"]
    ]
    error = 100 * np.sqrt(0.95 * 0.05 / result["draws"])
    about = (
        f"{result['what']}; {result['draws']:,} simulated experiments a row (standard error"
        f" {error:.1f} points), {result['resamples']} resamples a bootstrap"
    )
    return f"{about}\n\n{table(['statistic', 'interval', 'seeds', 'tasks', 'coverage'], rows)}"
