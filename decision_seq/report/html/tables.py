"""Tables of a page: cells with a text and the number that they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decision_seq.report.html.strips import Strip


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | None = None
    """The number to sort by; None for text, and where there is no number."""
    below: str = ""
    """A second, smaller line."""
    strip: Strip | None = None
    """A drawing in place of the text."""
    link: str = ""
    """Id of the page's element that the text leads to."""
    method: int = -1
    """Number of the method whose column the cell is in; -1 for none."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    numeric: bool = False
    """Whether its cells are aligned as numbers."""
    method: int = -1
    """Number of the method that the column is of, for the filter; -1 for none."""
    sortable: bool = True
    strip: Strip | None = None
    """The scale of the drawings in the column."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: Sequence[Cell]
    dataset: int = -1
    """Number of the dataset that the row is of, for the filter; -1 for none."""
    method: int = -1
    kind: str = ""
    """`published` for scores of others."""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading."""

    name: str
    """Its id in the page."""
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    kind: str = ""
    """`scores` for the scores of one dataset."""
