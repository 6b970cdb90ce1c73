"""Strips: a mean, its interval and each seed on one line, within a cell of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decision_seq.report.html.axes import Axis, Tick, spanning
from decision_seq.report.html.drawing import Look
from decision_seq.report.statistics import Interval

WIDTH = 190
SPAN = (8.0, WIDTH - 8.0)
TICKS = 4  # texts of a scale at most, so that they do not touch


@dataclass(frozen=True)
class Strip:
    """Positions of one row's values on the scale of its table."""

    look: Look | None
    """The method's look; None for scores of others, and for the scale itself."""
    mean: float | None = None
    ends: tuple[float, float] | None = None
    """Of the interval, or of mean ± spread."""
    seeds: tuple[float, ...] = ()
    ticks: tuple[Tick, ...] = ()
    """Of the scale."""
    description: str = ""


def scale(values: Sequence[float], intervals: Sequence[Interval]) -> Axis:
    """The scale that holds all values, and the intervals as far as they are not much wider."""
    low, high = min(values), max(values)
    reach = (high - low) or abs(high) * 0.1 or 1.0
    ends = [min(max(end, low - reach), high + reach) for pair in intervals for end in pair]
    return spanning([*values, *ends], *SPAN, margin=0.03)


def heading(axis: Axis) -> Strip:
    """The scale itself, for the head of the column."""
    ticks = axis.ticks()
    step = -(-len(ticks) // TICKS)
    return Strip(None, ticks=tuple(ticks[::step]))


def strip(
    axis: Axis,
    look: Look | None,
    mean: float,
    interval: Interval | None,
    seeds: Sequence[float] = (),
    description: str = "",
) -> Strip:
    """One row's values on a scale; an interval is cut at its ends."""
    ends = None if interval is None else (axis.clamped(interval[0]), axis.clamped(interval[1]))
    return Strip(look, axis(mean), ends, tuple(map(axis, seeds)), (), description)
