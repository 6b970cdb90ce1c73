"""How often the intervals of `decision_seq.statistics` hold the truth, where the truth is known.

Scores are drawn from a normal distribution of each task, for which every aggregate has a closed
form, and each interval is counted that holds it. 95 % is the promise; few seeds break it for the
bootstrap, and here one reads by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from decision_seq.statistics import (
    GAMMA,
    improvement,
    interquartile_mean,
    mean_of_tasks,
    optimality_gap,
    percentile_interval,
    resample,
    student_interval,
)

BLOCK = 2_000_000  # scores resampled at once, so that a simulation fits into little memory


@dataclass(frozen=True)
class World:
    """Tasks of known truth: a run's score in task i is normal with means[i] and stds[i].

    seeds: runs in each task.
    """

    means: Sequence[float]
    stds: Sequence[float]
    seeds: Sequence[int]

    @classmethod
    def even(cls, tasks: int, seeds: int) -> World:
        """Means spread as those of Decision Transformer over D4RL's locomotion, 40 to 110.

        The spread over seeds, 5 points, is the middle of what is published for it.
        """
        means = np.linspace(40, 110, tasks) if tasks > 1 else np.array([70.0])
        return cls(means.tolist(), [5.0] * tasks, [seeds] * tasks)

    def draw(self, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
        """`draws` whole experiments: for every task [draws, seeds]."""
        tasks = zip(self.means, self.stds, self.seeds, strict=True)
        return [rng.normal(mean, std, (draws, count)) for mean, std, count in tasks]


def true_mean(world: World) -> float:
    return float(np.mean(world.means))


def true_interquartile_mean(world: World) -> float:
    """The mean of the middle half of the tasks' mixture, what endless seeds would give."""
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
    """Of two methods that do equally well: a half."""
    return 0.5


Intervals = Callable[[World, int, int, np.random.Generator], np.ndarray]


def _student(world: World, draws: int, reps: int, rng: np.random.Generator) -> np.ndarray:
    (runs,) = world.draw(draws, rng)
    return student_interval(runs)


def _bootstrap(aggregate: Callable[..., np.ndarray], methods: int = 1) -> Intervals:
    """Intervals of `draws` experiments [2, draws], each of as many methods as are compared."""

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
    """How an interval is made of one experiment after another, and the truth it should hold."""

    statistic: str
    interval: str
    intervals: Intervals
    truth: Callable[[World], float]


STUDENT = Method("mean", "Student's t", _student, true_mean)
MEAN = Method("mean", "bootstrap", _bootstrap(mean_of_tasks), true_mean)
IQM = Method("IQM", "bootstrap", _bootstrap(interquartile_mean), true_interquartile_mean)
GAP = Method("optimality gap", "bootstrap", _bootstrap(optimality_gap), true_optimality_gap)
IMPROVEMENT = Method("P(X > Y)", "bootstrap", _bootstrap(improvement, 2), true_improvement)


def simulate(
    method: Method, world: World, rng: np.random.Generator, draws: int = 2_000, reps: int = 500
) -> float:
    """The fraction of `draws` experiments whose 95 % interval holds the truth.

    reps: resamples of a bootstrap. ValueError with fewer than two seeds in a task.
    """
    if min(world.seeds) < 2:
        raise ValueError(f"an interval needs at least two seeds in every task, not {world.seeds}")
    low, high = method.intervals(world, draws, reps, rng)
    truth = method.truth(world)
    return float(((low <= truth) & (truth <= high)).mean())
