"""Tests of axes: ticks are round, apart and within the range, and show different numbers."""

import numpy as np
import pytest

from decision_seq.report.html.axes import Axis, spanning, tick_text, time_unit
from decision_seq.report.html.drawing import steps, thinned
from decision_seq.report.html.strips import SPAN, scale, strip

RANGES = [(0, 60), (-0.5, 2.3), (1e-5, 9e-5), (3, 3.0001), (0, 2.5e6), (1e6, 1e6 + 50), (-9e3, -2)]


@pytest.mark.parametrize("ends", RANGES)
def test_ticks_of_a_linear_axis(ends: tuple[float, float]) -> None:
    axis = Axis(*ends, 50.0, 426.0)
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 7
    assert len({tick.text for tick in ticks}) == len(ticks)
    assert all(50 <= tick.at <= 426 for tick in ticks)
    assert np.ptp(np.diff([tick.at for tick in ticks])) < 0.3


@pytest.mark.parametrize(
    "ends", [(0.42, 0.47), (0.3, 4.0), (0.03, 0.4), (1e-6, 30.0), (1e-12, 1e5)]
)
def test_ticks_of_a_logarithmic_axis(ends: tuple[float, float]) -> None:
    ticks = Axis(*ends, 240.0, 34.0, log=True).ticks()
    assert 2 <= len(ticks) <= 10
    assert len({tick.text for tick in ticks}) == len(ticks)
    assert min(np.abs(np.diff([tick.at for tick in ticks]))) > 12  # a line of text


def test_positions() -> None:
    axis = Axis(0.0, 10.0, 240.0, 40.0)
    assert [axis(0), axis(2.5), axis(10)] == [240, 190, 40]
    assert axis.clamped(99) == 40
    assert Axis(0.1, 10.0, 0.0, 100.0, log=True)(1.0) == 50


@pytest.mark.parametrize("values", [[3.0], [0.0], [-5.0, -5.0], [1e-9], [0.0, 1e29], [-1e29, 1e29]])
def test_an_axis_has_room_for_any_values(values: list[float]) -> None:
    axis = spanning(values, 0.0, 100.0)
    assert axis.low < min(values)
    assert axis.high > max(values)
    assert axis.ticks()
    positive = [abs(value) or 1.0 for value in values]
    log = spanning(positive, 0.0, 100.0, log=True)
    assert log.low < min(positive) <= max(positive) < log.high
    assert log.ticks()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((-0.25, "-0.25"), (1500, "1,500"), (20_000, "20k"), (1_500_000, "1.5M"), (2e-5, "2e-05")),
        *((0, "0"), (-0.48, "-0.48")),
    ],
)
def test_numbers_of_ticks_are_short(value: float, text: str) -> None:
    assert tick_text(value) == text


def test_units_of_time() -> None:
    assert [time_unit(longest)[1] for longest in (5, 119, 120, 7199, 7200)] == [
        *("seconds", "seconds", "minutes", "minutes", "hours")
    ]


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    assert thinned(5, 10) == [0, 1, 2, 3, 4]
    few = thinned(1000, 10)
    assert (few[0], few[-1], len(few)) == (0, 999, 10)


def test_steps_stay_level() -> None:
    assert steps([(0, 5), (1, 3), (2, 3)]) == [(0, 5), (1, 5), (1, 3), (2, 3), (2, 3), (2, 3)]
    assert steps([]) == []


def test_a_wide_interval_does_not_squeeze_a_strip() -> None:
    """The interval of two seeds may be a hundred times wider than their distance."""
    axis = scale([10.0, 12.0], [(-300.0, 320.0)])
    assert axis.high - axis.low < 10
    drawn = strip(axis, None, 11.0, (-300.0, 320.0), [10.0, 12.0])
    assert drawn.ends == SPAN
    assert drawn.seeds[1] - drawn.seeds[0] > 40
