"""Tests of simulated coverage: true values, and the coverage of Student's interval."""

import numpy as np
import pytest

from decision_seq.report.coverage import (
    GAP,
    IMPROVEMENT,
    IQM,
    MEAN,
    STUDENT,
    Method,
    World,
    simulate,
    true_improvement,
    true_interquartile_mean,
    true_mean,
    true_optimality_gap,
)
from decision_seq.report.statistics import (
    improvement,
    interquartile_mean,
    mean_of_tasks,
    optimality_gap,
)

WORLD = World([40.0, 95.0, 108.0], [5.0, 12.0, 3.0], [20_000, 20_000, 20_000])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("seeds", [3, 10])
def test_students_t_holds_the_mean_as_often_as_it_says(seeds: int) -> None:
    assert 0.93 < simulate(STUDENT, World.even(1, seeds), rng(), draws=2_000) < 0.97


@pytest.mark.parametrize("method", [MEAN, IQM, GAP, IMPROVEMENT], ids=lambda m: m.statistic)
def test_the_bootstrap_comes_close_with_more_seeds(method: Method) -> None:
    few, many = (simulate(method, World.even(3, n), rng(), 400, 200) for n in (3, 15))
    assert few < many
    assert 0.87 < many < 0.98


@pytest.mark.parametrize(
    ("truth", "aggregate"),
    [
        (true_mean, mean_of_tasks),
        (true_interquartile_mean, interquartile_mean),
        (true_optimality_gap, optimality_gap),
    ],
)
def test_closed_forms_are_what_many_runs_give(truth, aggregate) -> None:
    obtained = aggregate(WORLD.draw(5, rng())).mean()
    assert truth(WORLD) == pytest.approx(obtained, abs=0.1)


def test_equal_methods_improve_half_the_time() -> None:
    few = World(WORLD.means, WORLD.stds, [300] * 3)
    obtained = improvement(few.draw(4, rng()), few.draw(4, np.random.default_rng(1))).mean()
    assert true_improvement(few) == pytest.approx(obtained, abs=0.03)


def test_tasks_with_more_runs_weigh_more_in_the_interquartile_mean() -> None:
    uneven = World(WORLD.means, WORLD.stds, [40_000, 10_000, 10_000])
    obtained = interquartile_mean(uneven.draw(5, rng())).mean()
    assert true_interquartile_mean(uneven) == pytest.approx(obtained, abs=0.3)
    assert obtained < true_interquartile_mean(WORLD) - 5


def test_no_interval_of_one_seed() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        simulate(IQM, World.even(2, 1), rng())
