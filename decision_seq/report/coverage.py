"""Simulated coverage: how often the intervals of `report.statistics` contain the true value.

Scores are drawn from a normal distribution for each task, for which every aggregate's true value
has a closed form. The nominal coverage is 95 %. With few seeds the bootstrap's is lower; the
simulation measures by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from decision_seq.report.statistics import (
    GAMMA,
    improvement,
    interquartile_mean,
    mean_of_tasks,
    optimality_gap,
    percentile_interval,
    resample,
    student_interval,
)

BLOCK = 2_000_000  # scores resampled at once, which bounds the memory of a simulation


@dataclass(frozen=True)
class World:
    """Tasks with known distributions: a run's score in task i is normal."""

    means: Sequence[float]
    """Mean score of each task."""
    stds: Sequence[float]
    """Standard deviation over seeds of each task."""
    seeds: Sequence[int]
    """Number of runs in each task."""

    @classmethod
    def even(cls, tasks: int, seeds: int) -> World:
        """A world with means from 40 to 110, as of Decision Transformer on D4RL's locomotion.

        The standard deviation over seeds, 5 points, is the middle of its published values.
        """
        means = np.linspace(40, 110, tasks) if tasks > 1 else np.array([70.0])
        return cls(means.tolist(), [5.0] * tasks, [seeds] * tasks)

    def draw(self, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw `draws` independent experiments -> scores [draws, seeds] of each task."""
        tasks = zip(self.means, self.stds, self.seeds, strict=True)
        return [rng.normal(mean, std, (draws, count)) for mean, std, count in tasks]


def true_mean(world: World) -> float:
    return float(np.mean(world.means))


def true_interquartile_mean(world: World) -> float:
    """The mean of the middle half of the tasks' mixture: the limit of infinitely many seeds."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    means, stds = np.array(world.means), np.maximum(world.stds, 1e-9)
    weights = np.array(world.seeds) / np.sum(world.seeds)
    ends = (means - 10 * stds).min(), (means + 10 * stds).max()

    def quantile(p: float) -> float:
        return brentq(lambda x: float(weights @ ndtr((x - means) / stds)) - p, *ends, xtol=1e-9)

    low, high = ((quantile(p) - means) / stds for p in (0.25, 0.75))
    # Of a normal variable between low and high: mean * probability - std * (density difference).
    parts = means * (ndtr(high) - ndtr(low)) - stds * (_density(high) - _density(low))
    return float(weights @ parts) / 0.5


def true_optimality_gap(world: World) -> float:
    """E max(gamma - X, 0) of a normal X, averaged over tasks."""
    from scipy.special import ndtr

    means, stds = np.array(world.means), np.maximum(world.stds, 1e-9)
    distance = (GAMMA - means) / stds
    return float(np.mean((GAMMA - means) * ndtr(distance) + stds * _density(distance)))


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)


def true_improvement(world: World) -> float:
    """P(X > Y) of two methods with equal distributions: one half."""
    return 0.5


Intervals = Callable[[World, int, int, np.random.Generator], np.ndarray]


def _student(world: World, draws: int, reps: int, rng: np.random.Generator) -> np.ndarray:
    (runs,) = world.draw(draws, rng)
    return student_interval(runs)


def _bootstrap(aggregate: Callable[..., np.ndarray], methods: int = 1) -> Intervals:
    """A function that returns bootstrap intervals [2, draws] of `draws` simulated experiments.

    methods: number of methods that one experiment compares.
    """

    def intervals(world: World, draws: int, reps: int, rng: np.random.Generator) -> np.ndarray:
        block = max(1, BLOCK // (reps * sum(world.seeds) * methods))
        found = []
        for start in range(0, draws, block):
            size = min(block, draws - start)
            drawn = [
                [resample(runs, reps, rng) for runs in world.draw(size, rng)]
                for _ in range(methods)
            ]
            found.append(percentile_interval(aggregate(*drawn)))
        return np.concatenate(found, axis=-1)

    return intervals


@dataclass(frozen=True)
class Method:
    """A statistic, a kind of interval for it, and its true value."""

    statistic: str
    """Name of the statistic."""
    interval: str
    """Name of the kind of interval."""
    intervals: Intervals
    """(world, draws, resamples, rng) -> ends [2, draws] of simulated experiments' intervals."""
    truth: Callable[[World], float]
    """True value of the statistic in a world."""


STUDENT = Method("mean", "Student's t", _student, true_mean)
MEAN = Method("mean", "bootstrap", _bootstrap(mean_of_tasks), true_mean)
IQM = Method("IQM", "bootstrap", _bootstrap(interquartile_mean), true_interquartile_mean)
GAP = Method("optimality gap", "bootstrap", _bootstrap(optimality_gap), true_optimality_gap)
IMPROVEMENT = Method("P(X > Y)", "bootstrap", _bootstrap(improvement, 2), true_improvement)


def simulate(
    method: Method, world: World, rng: np.random.Generator, draws: int = 2_000, reps: int = 500
) -> float:
    """The fraction of `draws` simulated experiments whose 95 % interval contains the true value.

    reps: resamples of a bootstrap. ValueError with fewer than two seeds in a task.
    """
    if min(world.seeds) < 2:
        raise ValueError(f"an interval needs at least two seeds in every task, not {world.seeds}")
    low, high = method.intervals(world, draws, reps, rng)
    truth = method.truth(world)
    return float(((low <= truth) & (truth <= high)).mean())
