"""Statistics of several runs: means, interquartile means, and their intervals.

The aggregates and their stratified bootstrap are those of Agarwal et al. 2021, "Deep reinforcement
learning at the edge of the statistical precipice" (their code: google-research/rliable). A task's
runs are one array [..., n]; leading axes are independent experiments, so that resamples and
simulations are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Interval = tuple[float, float]
TaskScores = Mapping[str, Sequence[float]]  # task -> one score a run
Aggregate = Callable[[Sequence[np.ndarray]], np.ndarray]  # tasks, each [..., n_i] -> [...]

LEVEL = 0.95
RESAMPLES = 2_000
GAMMA = 100.0  # the normalized score of an expert: D4RL's (and Atari's human) 100


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """95 % interval of the mean by Student's t; the mean itself, twice, for a single value."""
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean
    low, high = student_interval(array)
    return float(low), float(high)


def returns_interval(returns: np.ndarray) -> Interval:
    """95 % interval of the mean return of a policy's episodes.

    It is Student's t, or Wilson's (1927) where all returns are 1 or 0 (success or failure): that
    one is valid also where all returns are equal, and stays within [0, 1].
    """
    if not np.isin(returns, (0, 1)).all():
        return mean_interval(returns)
    from scipy.special import ndtri

    count, rate, z = len(returns), float(np.mean(returns)), float(ndtri((1 + LEVEL) / 2))
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def student_interval(values: np.ndarray) -> np.ndarray:
    """Runs [..., n], n at least 2 -> ends [2, ...] of the mean's 95 % interval by Student's t."""
    from scipy.special import stdtrit  # the only part of scipy that evaluation needs

    half = stdtrit(values.shape[-1] - 1, (1 + LEVEL) / 2) * standard_error(values)
    mean = values.mean(-1)
    return np.stack([mean - half, mean + half])


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean of runs [..., n], n at least 2 -> [...]."""
    return values.std(-1, ddof=1) / np.sqrt(values.shape[-1])


def mean_of_tasks(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over tasks of the mean over runs; all tasks have equal weight."""
    return np.stack([runs.mean(-1) for runs in tasks]).mean(0)


def interquartile_mean(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the middle half of all runs of all tasks (`scipy.stats.trim_mean`, 0.25).

    As in rliable, runs are pooled: a task with more runs weighs more.
    """
    pooled = np.sort(np.concatenate(tasks, axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(-1)


def optimality_gap(tasks: Sequence[np.ndarray], gamma: float = GAMMA) -> np.ndarray:
    """The mean shortfall of scores from gamma; scores above gamma count as gamma."""
    return mean_of_tasks([np.maximum(gamma - runs, 0.0) for runs in tasks])


def improvement(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> np.ndarray:
    """P(X > Y) averaged over tasks; ties count one half: the Mann-Whitney statistic / (n m)."""
    return np.stack([_exceeds(a, b) for a, b in zip(x, y, strict=True)]).mean(0)


def _exceeds(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x[..., :, None] - y[..., None, :]
    return (0.5 + 0.5 * np.sign(difference)).mean((-2, -1))


def resample(runs: np.ndarray, reps: int, rng: np.random.Generator) -> np.ndarray:
    """Resample runs with replacement: [..., n] -> [..., reps, n]."""
    *lead, count = runs.shape
    drawn = rng.integers(count, size=(*lead, reps, count))
    return np.take_along_axis(runs[..., None, :], drawn, axis=-1)


def percentile_interval(estimates: np.ndarray) -> np.ndarray:
    """The 95 % percentile interval: estimates [..., reps] -> its ends [2, ...]."""
    return np.quantile(estimates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)


def aggregated(scores: TaskScores, aggregate: Aggregate) -> float:
    """The aggregate of one experiment's scores."""
    return float(aggregate(_arrays(scores)))


def bootstrap_interval(
    scores: TaskScores, aggregate: Aggregate, rng: np.random.Generator, reps: int = RESAMPLES
) -> Interval | None:
    """95 % stratified bootstrap percentile interval: runs are resampled within each task.

    None where a task has a single run, whose spread is unknown. With few runs the interval is too
    narrow; `coverage.simulate` measures by how much.
    """
    tasks = _arrays(scores)
    if min(map(len, tasks)) < 2:
        return None
    estimates = aggregate([resample(runs, reps, rng) for runs in tasks])
    low, high = percentile_interval(estimates)
    return float(low), float(high)


def probability_of_improvement(x: TaskScores, y: TaskScores) -> float:
    """P(a run of X scores above one of Y), averaged over the tasks that both have.

    ValueError when they have none in common.
    """
    return float(improvement(*_shared(x, y)))


def improvement_interval(
    x: TaskScores, y: TaskScores, rng: np.random.Generator, reps: int = RESAMPLES
) -> Interval | None:
    """95 % bootstrap interval of `probability_of_improvement`; X and Y are resampled separately.

    None where a task has a single run.
    """
    ours, theirs = _shared(x, y)
    if min(map(len, [*ours, *theirs])) < 2:
        return None
    drawn = ([resample(runs, reps, rng) for runs in tasks] for tasks in (ours, theirs))
    low, high = percentile_interval(improvement(*drawn))
    return float(low), float(high)


def performance_profile(scores: TaskScores, thresholds: np.ndarray) -> np.ndarray:
    """The fraction of runs above each threshold [K]; all tasks have equal weight."""
    return _profile(_arrays(scores), thresholds)


def profile_band(
    scores: TaskScores, thresholds: np.ndarray, rng: np.random.Generator, reps: int = RESAMPLES
) -> np.ndarray | None:
    """The profile's pointwise 95 % bootstrap band [2, K]; None with a single run in a task."""
    tasks = _arrays(scores)
    if min(map(len, tasks)) < 2:
        return None
    profiles = _profile([resample(runs, reps, rng) for runs in tasks], thresholds)  # [reps, K]
    return percentile_interval(profiles.T)


def _profile(tasks: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Tasks, each [..., n] -> [..., K]; one threshold at a time, which bounds the memory."""
    columns = [mean_of_tasks([runs > threshold for runs in tasks]) for threshold in thresholds]
    return np.stack(columns, axis=-1)


def _arrays(scores: TaskScores) -> list[np.ndarray]:
    """The scores as one array per task.

    ValueError without a task, for a task without a run, or for a score that is not finite.
    """
    tasks = [np.asarray(runs, np.float64) for runs in scores.values()]
    if not tasks or any(runs.ndim != 1 or not len(runs) for runs in tasks):
        raise ValueError("every task needs at least one run, and there must be a task")
    if not all(np.isfinite(runs).all() for runs in tasks):
        raise ValueError("scores must be finite numbers")
    return tasks


def _shared(x: TaskScores, y: TaskScores) -> tuple[list[np.ndarray], list[np.ndarray]]:
    common = [task for task in x if task in y]
    if not common:
        raise ValueError(f"no task in common: {', '.join(x)} and {', '.join(y)}")
    return _arrays({task: x[task] for task in common}), _arrays({task: y[task] for task in common})


def area_under_curve(
    scores: np.ndarray, positive: np.ndarray, resamples: int = RESAMPLES
) -> tuple[float, Interval]:
    """Area under the receiver operating characteristic, and its 95 % interval.

    It is the probability that a positive scores above a negative; ties count one half
    (Mann-Whitney's U). scores, positive: [n], with at least one of each class. The interval is by
    bootstrap within each class.
    """
    positive = np.asarray(positive, bool)
    high, low = (np.asarray(scores, np.float64)[kind] for kind in (positive, ~positive))

    def area(high: np.ndarray, low: np.ndarray) -> float:
        low = np.sort(low)
        below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
        return float(below.mean() / (2 * len(low)))

    rng = np.random.default_rng(0)

    def resampled(values: np.ndarray) -> np.ndarray:
        return values[rng.integers(len(values), size=len(values))]

    drawn = [area(resampled(high), resampled(low)) for _ in range(resamples)]
    low_end, high_end = percentile_interval(np.array(drawn))
    return area(high, low), (float(low_end), float(high_end))
