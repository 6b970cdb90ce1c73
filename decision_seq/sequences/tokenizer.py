"""Tokenizer of numbers: bins for every dimension, fitted once and stored as buffers.

The bins are quantiles or of equal width (Janner et al., 2021; jannerm/trajectory-transformer,
trajectory/utils/discretization.py). The bin of a number is computed in float32, the dtype of
training windows and rollouts.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.types import UserError

Binning = Literal["quantile", "uniform"]


class Tokenizer(nn.Module):
    """Tokenizer with `bins` bins per dimension: bin i holds edges[i] <= x < edges[i + 1].

    A number that is at several edges (most rewards may be 0) has a bin of its own, up to the next
    float32, and decodes to itself. The bins that this saves are empty and at the end: their edges
    and centres repeat the last one, and `encode` never returns them. (The original retains equal
    edges, and a constant dimension decodes to its last bin.)
    """

    edges: Tensor
    """Bounds of the bins, [D, N + 1]."""
    centers: Tensor
    """Middle of each bin, [D, N]."""

    def __init__(self, dimensions: int, bins: int) -> None:
        super().__init__()
        self.dimensions, self.bins = dimensions, bins
        edges = torch.arange(bins + 1, dtype=torch.float32)
        self.register_buffer("edges", edges.repeat(dimensions, 1))
        self.register_buffer("centers", self.edges[:, :-1] + 0.5)
        self.register_load_state_dict_post_hook(_check_edges)

    def fit(self, columns: Iterable[np.ndarray], binning: Binning) -> None:
        """Fit the edges to all rows, given in blocks [n, D] that are read once.

        Quantiles write the rows to a temporary file and load one dimension at a time into memory.
        UserError for a number that is no finite float32, naming its dimension, and for disk errors.
        """
        blocks = _checked(columns, self.dimensions)
        for dimension, cut in enumerate(CUTS[binning](blocks, self.dimensions, self.bins)):
            edges, centers = _bins(cut)
            self.edges[dimension] = torch.as_tensor(edges)
            self.centers[dimension] = torch.as_tensor(centers)

    def encode(self, values: Tensor, first: int = 0) -> Tensor:
        """Values [..., d] of the dimensions from `first` on -> tokens [..., d], 0 to N - 1.

        A value beyond the edges goes to the first bin or to the last one that is not empty.
        """
        width = values.shape[-1]
        edges = self.edges[first : first + width].float()  # [d, N + 1]
        rows = values.float().reshape(-1, width).T.contiguous()  # [d, M]
        tokens = torch.searchsorted(edges, rows, right=True) - 1
        last = (edges < edges[:, -1:]).sum(1, keepdim=True) - 1  # [d, 1]
        return torch.minimum(tokens.clamp(min=0), last).T.reshape(values.shape)

    def decode(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Tokens [..., d] of the dimensions from `first` on -> the centres of their bins, [..., d].

        Only tokens 0 to N - 1 have one. The caller must remove any other token that a model may
        return (that the episode has stopped): it raises IndexError or RuntimeError on a CPU and
        fails an assertion on a GPU.
        """
        width = tokens.shape[-1]
        centers = self.centers[first : first + width].expand(*tokens.shape, self.bins)
        return centers.gather(-1, tokens[..., None]).squeeze(-1)

    def expect(self, probabilities: Tensor, first: int = 0) -> Tensor:
        """Expected value [..., d] under probabilities [..., d, N], which need not sum to 1."""
        width = probabilities.shape[-2]
        # Not a matrix product, because autocast would round the centres.
        return (probabilities * self.centers[first : first + width]).sum(-1)


def _check_edges(tokenizer: Tokenizer, keys: object) -> None:
    """Raise UserError for edges that `fit` cannot produce; `encode` would return invalid tokens."""
    edges = tokenizer.edges
    ascend = (edges.diff(dim=1) >= 0).all() and (edges[:, 0] < edges[:, -1]).all()
    require(bool(ascend), "the edges of a tokenizer's bins do not ascend; use another checkpoint")


def _checked(columns: Iterable[np.ndarray], dimensions: int) -> Iterator[np.ndarray]:
    """The blocks with any rows, as float32; UserError without a row, or for a non-finite number."""
    largest, rows = np.finfo(np.float32).max, 0
    for column in columns:
        if column.ndim != 2 or column.shape[1] != dimensions:
            raise ValueError(f"a block of shape {column.shape}, not [n, {dimensions}]")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
            block = column.astype(np.float32)
        sound = (np.abs(block) < largest).all(0)
        require(
            bool(sound.all()),
            f"dimension {np.argmin(sound)} of {dimensions} to be cut into bins holds NaN, infinity"
            " or more than a float32 can; mend the data",
        )
        if len(block):
            rows += len(block)
            yield block
    require(rows > 0, "there is no row to fit bins to")


def _uniform(blocks: Iterator[np.ndarray], dimensions: int, bins: int) -> Iterator[np.ndarray]:
    """Edges of equal distance from the least number to the greatest, [N + 1] per dimension."""
    low, high = np.full((2, dimensions), [[np.inf], [-np.inf]])  # float64
    for block in blocks:
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    yield from np.linspace(low, high, bins + 1, axis=1).astype(np.float32)


def _quantiles(blocks: Iterator[np.ndarray], dimensions: int, bins: int) -> Iterator[np.ndarray]:
    """Edges at the quantiles k / N, interpolated between numbers, [N + 1] per dimension.

    The last edge is the greatest number. (The original takes every ceil(M / N)-th number, which
    gives fewer than N bins for most numbers of rows.)
    """
    with contextlib.closing(_ScratchFile(dimensions)) as scratch:
        for block in blocks:
            scratch.append(block)
        for dimension in range(dimensions):
            column = scratch.column(dimension)
            column.sort()
            last = len(column) - 1
            below, rest = np.divmod(np.arange(bins + 1) * len(column), bins)
            left = column[np.minimum(below, last)].astype(np.float64)
            right = column[np.minimum(below + 1, last)]
            yield (left + rest / bins * (right - left)).astype(np.float32)


CUTS: dict[str, Callable[[Iterator[np.ndarray], int, int], Iterator[np.ndarray]]] = {
    "quantile": _quantiles,
    "uniform": _uniform,
}


def _bins(cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending edges [N + 1], some of them equal -> edges [N + 1] and centres [N] of a Tokenizer.

    m >= 2 equal edges become two, whose bin holds only that number, so N + 1 edges suffice.
    """
    values, counts = np.unique(cut, return_counts=True)
    following = _next(values[counts > 1])
    edges = np.unique(np.concatenate([values, following]))  # the next float32 may be an edge too
    left, right = edges[:-1], edges[1:]
    middles = ((left.astype(np.float64) + right) / 2).astype(np.float32)
    centers = np.where(_next(left) >= right, left, middles)
    missing = len(cut) - len(edges)
    return np.pad(edges, (0, missing), "edge"), np.pad(centers, (0, missing), "edge")


def _next(values: np.ndarray) -> np.ndarray:
    """The next float32 after each; after 0 the least normal one, as devices may flush others."""
    following = np.nextafter(values, np.float32(np.inf))
    return np.maximum(following, values + np.finfo(np.float32).tiny)


class _ScratchFile:
    """Temporary file of blocks of rows, read by dimension; removed however the process ends."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions, self.counts = dimensions, list[int]()
        with _disk_errors():
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)

    def append(self, block: np.ndarray) -> None:
        """Write a block [n, D] float32."""
        with _disk_errors():
            self.file.write(np.ascontiguousarray(block.T).data)
            self.file.flush()
        self.counts.append(len(block))

    def column(self, dimension: int) -> np.ndarray:
        """All rows of one dimension, [M] float32."""
        column = np.empty(sum(self.counts), np.float32)
        start = 0
        for count in self.counts:
            part = column[start : start + count]
            with _disk_errors():
                self.file.seek(part.itemsize * (start * self.dimensions + dimension * count))
                self.file.readinto(part.data.cast("B"))
            start += count
        return column

    def close(self) -> None:
        """Close and remove the file."""
        with contextlib.suppress(OSError):  # on a full disk, flushing the buffer fails too
            self.file.close()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn OSErrors into UserErrors."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot sort the data to be cut into bins: {error.strerror}; make room for temporary"
            " files, or name another folder for them by TMPDIR"
        ) from error
