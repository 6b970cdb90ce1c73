"""Tests of every aggregate against an independent implementation: scipy, a loop, or rliable.

The stored values are from rliable 1.2.0 (google-research/rliable; numpy 2.4, pandas 2.3, in its own
virtual environment, as it pins other packages) on X and Y below: `metrics.aggregate_iqm`,
`aggregate_optimality_gap(..., 100)`, `probability_of_improvement`, `library.
create_performance_profile` and `get_interval_estimates` with 20,000 to 50,000 resamples after
`numpy.random.seed(0)`.
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from decision_seq.report.statistics import (
    aggregated,
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    mean_interval,
    mean_of_tasks,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_band,
    resample,
    returns_interval,
    student_interval,
)

X = {
    "a": [37.2, 48.8, 46.5, 36.3, 41.5],
    "b": [59.1, 67.7, 76.8, 76.6, 60.0],
    "c": [88.5, 86.7, 91.6, 91.2, 86.2],
    "d": [110.5, 103.3, 100.6, 97.6, 105.1],
}
Y = {
    "a": [48.8, 41.5, 33.1, 38.8, 32.5],
    "b": [67.3, 69.0, 63.0, 62.2, 55.9],
    "c": [86.6, 77.1, 79.3, 80.7, 88.3],
    "d": [101.5, 103.5, 100.6, 102.6, 98.3],
}
THRESHOLDS = np.array([30.0, 45, 60, 75, 90, 105, 120])
RLIABLE = {
    "iqm": (78.44, 72.94),
    "iqm_interval": (75.01, 81.89),
    "gap": (25.385, 28.88),
    "gap_interval": (23.324875, 27.435),
    "improvement": 0.695,
    "improvement_interval": (0.515, 0.85),
    "profile": [1.0, 0.85, 0.65, 0.6, 0.35, 0.1, 0.0],
    "profile_low": [1.0, 0.75, 0.55, 0.5, 0.25, 0.0, 0.0],
    "profile_high": [1.0, 0.95, 0.75, 0.7, 0.45, 0.2, 0.0],
}
MANY = 20_000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def uneven(seed: int) -> dict[str, list[float]]:
    """Tasks with 2 to 6 runs each; scores are whole numbers, so that ties occur."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 120, rng.integers(2, 7)).astype(float).tolist() for name in "pqrst"
    }


@pytest.mark.parametrize("count", [2, 3, 10])
def test_student_interval_is_scipys(count: int, rng: np.random.Generator) -> None:
    values = rng.normal(50, 10, count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("successes", [0, 1, 13, 39, 40])
def test_the_interval_of_a_success_rate_is_wilsons(successes: int) -> None:
    returns = np.array([1.0] * successes + [0.0] * (40 - successes))
    told = stats.binomtest(successes, 40).proportion_ci(method="wilson")
    assert returns_interval(returns) == pytest.approx((told.low, told.high), abs=1e-12)
    other = returns.copy()
    other[0] = 0.5
    assert returns_interval(other) == mean_interval(other)


def test_student_interval_of_many_experiments_at_once(rng: np.random.Generator) -> None:
    runs = rng.normal(size=(4, 3, 5))
    low, high = student_interval(runs)
    assert (low[2, 1], high[2, 1]) == pytest.approx(mean_interval(runs[2, 1]))


def test_one_value_has_no_spread() -> None:
    assert mean_interval([7.0]) == (7.0, 7.0)


@pytest.mark.parametrize("seed", range(8))
def test_interquartile_mean_is_scipys(seed: int) -> None:
    scores = uneven(seed)
    pooled = list(itertools.chain(*scores.values()))
    assert aggregated(scores, interquartile_mean) == pytest.approx(stats.trim_mean(pooled, 0.25))


@pytest.mark.parametrize("seed", range(4))
def test_optimality_gap_by_a_loop(seed: int) -> None:
    scores = uneven(seed)
    gaps = [sum(max(0.0, 100.0 - score) for score in runs) / len(runs) for runs in scores.values()]
    assert aggregated(scores, optimality_gap) == pytest.approx(sum(gaps) / len(gaps))
    assert aggregated({"a": [130.0]}, optimality_gap) == 0  # scores above gamma add nothing


@pytest.mark.parametrize("seed", range(4))
def test_improvement_is_scipys_mann_whitney(seed: int) -> None:
    x, y = uneven(seed), uneven(seed + 100)
    expected = [
        stats.mannwhitneyu(x[task], y[task]).statistic / (len(x[task]) * len(y[task])) for task in x
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(expected))


def test_improvement_counts_ties_half_and_only_shared_tasks() -> None:
    x = {"a": [1.0, 2.0], "only x": [9.0]}
    y = {"only y": [9.0], "a": [1.0, 1.5]}
    assert probability_of_improvement(x, y) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert probability_of_improvement(x, x) == 0.5
    with pytest.raises(ValueError, match="no task in common"):
        probability_of_improvement({"a": [1.0]}, {"b": [1.0]})


@pytest.mark.parametrize("seed", range(4))
def test_performance_profile_by_a_loop(seed: int) -> None:
    scores = uneven(seed)
    thresholds = np.array([0.0, 30.0, 61.0, 100.0, 121.0])
    expected = [
        np.mean([sum(s > tau for s in runs) / len(runs) for runs in scores.values()])
        for tau in thresholds
    ]
    assert performance_profile(scores, thresholds) == pytest.approx(expected)


def test_values_are_rliables(rng: np.random.Generator) -> None:
    for which, scores in enumerate((X, Y)):
        assert aggregated(scores, interquartile_mean) == pytest.approx(RLIABLE["iqm"][which])
        assert aggregated(scores, optimality_gap) == pytest.approx(RLIABLE["gap"][which])
    assert probability_of_improvement(X, Y) == pytest.approx(RLIABLE["improvement"])
    assert performance_profile(X, THRESHOLDS) == pytest.approx(RLIABLE["profile"])


def test_intervals_are_rliables(rng: np.random.Generator) -> None:
    """Both are random; the tolerance is the error that 20,000 resamples leave."""
    iqm = bootstrap_interval(X, interquartile_mean, rng, MANY)
    assert iqm == pytest.approx(RLIABLE["iqm_interval"], abs=0.15)
    gap = bootstrap_interval(X, optimality_gap, rng, MANY)
    assert gap == pytest.approx(RLIABLE["gap_interval"], abs=0.1)
    better = improvement_interval(X, Y, rng, MANY)
    assert better == pytest.approx(RLIABLE["improvement_interval"], abs=0.0101)
    band = profile_band(X, THRESHOLDS, rng, MANY)
    assert band is not None
    assert band[0] == pytest.approx(RLIABLE["profile_low"], abs=1e-9)
    assert band[1] == pytest.approx(RLIABLE["profile_high"], abs=1e-9)


def test_runs_stay_in_their_task(rng: np.random.Generator) -> None:
    """Resampling is stratified: with equal scores within each task, all resamples are equal."""
    flat = {"a": [10.0] * 3, "b": [90.0] * 5}
    assert bootstrap_interval(flat, mean_of_tasks, rng) == pytest.approx((50.0, 50.0))


def test_bootstrap_by_a_loop() -> None:
    """The vectorised resampling has the spread of resampling run by run."""
    scores = uneven(3)
    rng = np.random.default_rng(1)
    means = [
        np.mean([np.mean(rng.choice(runs, len(runs))) for runs in scores.values()])
        for _ in range(4_000)
    ]
    found = bootstrap_interval(scores, mean_of_tasks, rng, 4_000)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1.0)


def test_one_run_has_no_interval(rng: np.random.Generator) -> None:
    single = {"a": [1.0, 2.0], "b": [3.0]}
    assert bootstrap_interval(single, interquartile_mean, rng) is None
    assert improvement_interval(single, single, rng) is None
    assert profile_band(single, THRESHOLDS, rng) is None


def test_resampling_is_by_the_generator_handed_in() -> None:
    runs = np.arange(10.0)
    first, again, other = (resample(runs, 5, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (5, 10)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("scores", [{}, {"a": []}, {"a": [1.0, float("nan")]}])
def test_nothing_is_made_of_missing_scores(scores: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"at least one run|finite"):
        aggregated(scores, mean_of_tasks)
