"""Drawings of a page: charts as positions and texts, which the templates turn into SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from decision_seq.report.html.axes import Axis, Tick

# Of a chart, in its own units; on a phone one of them is a little less than a pixel.
WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 34, 40
COLOURS, DASHES, MARKERS = 8, 4, 5  # kinds that the style sheet and the templates know
MOST_POINTS = 120  # of a line; of longer ones some are left out


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in every chart of a page."""

    method: int
    """Number of the method; its filter hides what bears it. -1 for what belongs to none."""
    colour: int
    dash: int
    marker: int

    @classmethod
    def of(cls, method: int) -> Look:
        """Methods differ in colour, dash and marker."""
        return cls(method, method % COLOURS, method % DASHES, method % MARKERS)


@dataclass(frozen=True)
class Value:
    """A point of a line, with the texts that are shown for it."""

    at: tuple[float, float]
    """Position in the drawing."""
    x: str
    y: str


@dataclass(frozen=True)
class Series:
    """What is drawn of one method."""

    name: str
    look: Look
    values: tuple[Value, ...]
    """Points of the main line."""
    thin: tuple[str, ...] = ()
    """Points of thin lines, one a seed."""
    band: str = ""
    """Points of a polygon around the main line."""
    bars: tuple[tuple[float, float, float], ...] = ()
    """Vertical bars: x, top, bottom."""
    dots: tuple[tuple[float, float], ...] = ()
    """Small single points."""
    marked: bool = True
    """Whether the points of the main line have markers."""
    stepped: bool = False
    """Whether the main line stays level between its points."""

    @property
    def line(self) -> str:
        positions = [value.at for value in self.values]
        return points(steps(positions) if self.stepped else positions)


@dataclass(frozen=True)
class Guide:
    """A straight line that is no data, and what it stands for."""

    ends: tuple[float, float, float, float]
    """x1, y1, x2, y2."""
    text: str
    kind: int = 0
    """Its dash."""


@dataclass(frozen=True)
class Chart:
    """One drawing with axes."""

    name: str
    """Its id in the page."""
    title: str
    description: str
    """What it shows, for those who cannot see it."""
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    guides: tuple[Guide, ...] = field(default=())

    @property
    def x_ticks(self) -> list[Tick]:
        return self.x.ticks()

    @property
    def y_ticks(self) -> list[Tick]:
        return self.y.ticks()

    @property
    def hovers(self) -> list[dict[str, object]]:
        """The points of every series, for the script that shows values under the pointer."""
        return [
            {"m": one.look.method, "v": [[*value.at, value.x, value.y] for value in one.values]}
            for one in self.series
        ]


X_SPAN = (float(LEFT), float(WIDTH - RIGHT))
Y_SPAN = (float(HEIGHT - BOTTOM), float(TOP))


def points(positions: Iterable[tuple[float, float]]) -> str:
    """Positions as the `points` of an SVG line."""
    return " ".join(f"{x:g},{y:g}" for x, y in positions)


def steps(positions: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a line that stays level until the next position."""
    corners = [(later[0], place[1]) for place, later in pairwise(positions)]
    pairs = zip(positions, [*corners, positions[-1]], strict=True) if positions else ()
    return [place for pair in pairs for place in pair]


def band(x: Axis, y: Axis, at: Sequence[float], ends: Sequence[tuple[float, float]]) -> str:
    """The polygon between lower and upper ends, cut at the ends of the y axis."""
    there = [(x(place), y.clamped(high)) for place, (_, high) in zip(at, ends, strict=True)]
    back = [(x(place), y.clamped(low)) for place, (low, _) in zip(at, ends, strict=True)]
    return points([*there, *reversed(back)])


def thinned(count: int, most: int = MOST_POINTS) -> list[int]:
    """Indices of at most about `most` of `count` points, evenly spread, both ends included."""
    if count <= most:
        return list(range(count))
    return sorted({round(number * (count - 1) / (most - 1)) for number in range(most)})
