"""Aggregates of a comparison over all tasks, with intervals and their simulated coverage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decision_seq.report.compare import Comparison
from decision_seq.report.coverage import GAP, IQM, Method, World, simulate
from decision_seq.report.statistics import (
    Aggregate,
    Interval,
    TaskScores,
    aggregated,
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    optimality_gap,
    probability_of_improvement,
)

DRAWS, RESAMPLES = 1_000, 300  # of a simulation of coverage; its standard error is 0.7 points
LEAST_STD = 1e-3  # points: spread in the simulation of a task whose seeds all have one score


@dataclass(frozen=True)
class Summary:
    """A statistic of one method over the common tasks of `shared`."""

    label: str
    """Label of the method."""
    statistic: str
    """Name of the statistic: IQM or optimality gap."""
    estimate: float
    """Value of the statistic, in points of the normalized score x100."""
    interval: Interval | None
    """95 % bootstrap interval; None where a task has a single seed."""
    coverage: float | None
    """Fraction of simulated intervals that contain the true value; None without an interval.

    Scores are simulated as normal with the means, spreads and numbers of seeds of these runs.
    """


@dataclass(frozen=True)
class Improvement:
    """P(a run of `over` scores above one of `under`) over the tasks that both have."""

    over: str
    """Label of the first method."""
    under: str
    """Label of the second method."""
    probability: float
    """Estimate of the probability."""
    interval: Interval | None
    """95 % bootstrap interval; None where a task has a single seed."""
    tasks: int
    """Number of tasks that both methods have."""


def shared(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Methods that can be compared over tasks, and their common rows with normalized scores.

    Methods with the most rows come first; a method that would leave no common row is left out.
    """
    scored = {label: set(comparison.normalized(label)) for label in comparison.labels}
    rows: set[str] = set()
    methods: list[str] = []
    for label in sorted(scored, key=lambda label: -len(scored[label])):
        common = rows & scored[label] if methods else scored[label]
        if common:
            rows = common
            methods.append(label)
    return sorted(methods), [row for row in comparison.rows if row in rows]


def summaries(comparison: Comparison, rng: np.random.Generator) -> list[Summary]:
    """Interquartile mean and optimality gap of every method; none without reference scores."""
    methods, tasks = shared(comparison)
    statistics: tuple[tuple[Method, Aggregate], ...] = (
        (IQM, interquartile_mean),
        (GAP, optimality_gap),
    )
    found = []
    for label, (method, aggregate) in itertools.product(methods, statistics):
        scores = {row: comparison.normalized(label)[row] for row in tasks}
        interval = bootstrap_interval(scores, aggregate, rng)
        coverage = None
        if interval is not None:
            coverage = simulate(method, _world(scores), rng, DRAWS, RESAMPLES)
        found.append(
            Summary(label, method.statistic, aggregated(scores, aggregate), interval, coverage)
        )
    return found


def _world(scores: TaskScores) -> World:
    runs: Sequence[np.ndarray] = [np.asarray(values) for values in scores.values()]
    return World(
        [float(values.mean()) for values in runs],
        [max(float(values.std(ddof=1)), LEAST_STD) for values in runs],
        [len(values) for values in runs],
    )


def improvements(comparison: Comparison, rng: np.random.Generator) -> list[Improvement]:
    """The probability of improvement for each pair of methods with a common task."""
    found = []
    for over, under in itertools.combinations(comparison.labels, 2):
        x, y = comparison.normalized(over), comparison.normalized(under)
        tasks = sum(row in y for row in x)
        if tasks:
            found.append(
                Improvement(
                    over,
                    under,
                    probability_of_improvement(x, y),
                    improvement_interval(x, y, rng),
                    tasks,
                )
            )
    return found
