"""Axes of drawings in a page: from values to positions, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from decision_seq.formatting import number_text

TICKS = 5  # of an axis, about
DECADES = 0.7  # a logarithmic axis of fewer has ticks at round numbers, not at powers of ten
UNITS = ((7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclass(frozen=True)
class Tick:
    """A tick of an axis."""

    at: float
    """Position in the drawing."""
    text: str
    """The number that is shown."""


@dataclass(frozen=True)
class Axis:
    """The range of values of an axis, and where it lies in a drawing."""

    low: float
    """Value at `start`."""
    high: float
    """Value at `end`, above `low`."""
    start: float
    """Position of `low`."""
    end: float
    """Position of `high`."""
    log: bool = False
    """Whether the axis is logarithmic; then `low` is above 0."""

    def __call__(self, value: float) -> float:
        """The position of a value."""
        low, high = (self._scaled(end) for end in (self.low, self.high))
        share = (self._scaled(value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def clamped(self, value: float) -> float:
        """The position of a value, or of the nearer end of the axis beyond it."""
        return self(min(max(value, self.low), self.high))

    def ticks(self) -> list[Tick]:
        """Ticks at round numbers within the range."""
        wide = self.log and math.log10(self.high / self.low) > DECADES
        values = _powers(self.low, self.high) if wide else _rounds(self.low, self.high)
        step = None if wide or len(values) < 2 else values[1] - values[0]
        return [Tick(self(value), tick_text(value, step)) for value in values]


def spanning(
    values: Sequence[float], start: float, end: float, log: bool = False, margin: float = 0.06
) -> Axis:
    """The axis that holds all values, with a margin at both ends as a share of its length."""
    low, high = min(values), max(values)
    if log:
        least = 0.02 if high <= low else 0.0
        width = (math.log10(high / low)) * margin + least
        return Axis(low / 10**width, high * 10**width, start, end, True)
    width = (high - low) * margin or abs(high) * 0.05 or 1.0
    return Axis(low - width, high + width, start, end)


def _rounds(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two values; of a range of few, also their double and fivefold."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    stride = max(1, round((last - first) / (TICKS + 1)))
    values = [factor * 10.0**power for power in range(first, last, stride) for factor in factors]
    return [value for value in (*values, 10.0**last) if low <= value <= high]


def tick_text(value: float, step: float | None = None) -> str:
    """The number of a tick, short: `-0.25`, `1,500`, `20k`, `1.5M`, `2e-05`.

    step: distance to the next tick, which must show as another number.
    """
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= unit and (step is None or step >= unit / 100):
            return f"{value / (1e6 if letter == 'M' else 1e3):,.6g}{letter}"
    if value and abs(value) < 1e-4:
        return f"{value:.3g}"
    if step is None:
        return number_text(value, 0, 4)
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def time_unit(longest: float) -> tuple[float, str]:
    """The unit in which a time is shown: its seconds, and its name."""
    return next((unit, name) for least, unit, name in UNITS if longest >= least)
