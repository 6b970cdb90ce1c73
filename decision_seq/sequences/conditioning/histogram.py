"""Conditioning on the distribution of a feature over all future steps.

This is the condition of the Categorical Decision Transformer (Furuta et al., 2022;
frt03/generalized_dt train_cdt.py). The module also has its score, the distance between two such
distributions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.conditioning.base import Conditioning
from decision_seq.sequences.conditioning.features import Featured
from decision_seq.types import Episode

MOST_BINS = 10_000


@Conditioning.register_subclass("histogram")
@dataclass(frozen=True)
class Histogram(Featured):
    """Conditioning on a histogram of the feature over the future steps.

    Labels are [T, bins]; that of step t is the share of the steps t..T-1 whose feature is in each
    bin.
    """

    fields: ClassVar[tuple[str, ...]] = ("histogram",)
    bins: int = 30
    """Number of bins of equal width from `low` to `high`; the outer ones include values beyond."""
    low: float | None = None
    """Lower end of the bins; null for the smallest value in the data."""
    high: float | None = None
    """Upper end of the bins; null for the largest value in the data."""
    target: tuple[float, ...] | None = None
    """Histogram given to a rollout at every step, as shares or counts; null for that of the data's
    best episode."""

    def __post_init__(self) -> None:
        where = "config: conditioning."
        require(
            1 <= self.bins <= MOST_BINS,
            f"{where}bins {self.bins} must be at least 1, and {MOST_BINS:,} at most",
        )
        low = -np.finfo(float).max if self.low is None else self.low
        high = np.finfo(float).max if self.high is None else self.high
        require(
            bool(np.isfinite([low, high]).all() and low < high),
            f"{where}low {self.low} must be below conditioning.high {self.high}, both finite",
        )
        if self.target is not None:
            check_shares(self.target, self.bins, f"{where}target")

    @property
    def size(self) -> int:
        return self.bins

    @property
    def labelling(self) -> Histogram:
        return replace(self, target=None)

    @property
    def edges(self) -> np.ndarray:
        """The edges of the bins, [bins + 1]."""
        if self.low is None or self.high is None:
            raise ValueError("the range is not resolved: call resolved(store) first")
        return np.linspace(self.low, self.high, self.bins + 1)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """The distribution [bins] float64 of values [N] of the feature."""
        counts = np.bincount(self._binned(values), minlength=self.bins)
        return counts / len(values)

    def relabel(self, episode: Episode) -> np.ndarray:
        return self._labels(self._binned(self.of_episode(episode)))

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Label as `relabel` does, from the feature's column only."""
        binned = self._binned(self.of_store(store))
        for start, end in itertools.pairwise(store.offsets):
            out[start:end] = self._labels(binned[start:end])

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        if self.target is None:
            raise ValueError("the target is not resolved: call resolved(store) first")
        wanted = np.array(self.target, np.float64)
        return np.tile((wanted / wanted.sum()).astype(np.float32), (len(targets), 1))

    def resolved(self, store: EpisodeStore) -> Histogram:
        """A copy with range and target taken from the data; UserError for a constant feature."""
        found = self.found_in(store)
        values = found.of_store(store)
        low = float(values.min()) if self.low is None else self.low
        high = float(values.max()) if self.high is None else self.high
        require(
            low < high,
            f"{store.name}: feature {self.feature} spans {low:g} to {high:g}, which is no range;"
            " give conditioning.low and conditioning.high",
        )
        found = replace(found, low=low, high=high)
        if found.target is None:
            best = store.episode(int(store.returns.argmax()))
            shares = found.shares(found.of_episode(best))
            found = replace(found, target=tuple(shares.tolist()))
        return found

    def _binned(self, values: np.ndarray) -> np.ndarray:
        """The bin of each value, [N]; a bin includes its lower edge."""
        return np.searchsorted(self.edges[1:-1], values, side="right")

    def _labels(self, binned: np.ndarray) -> np.ndarray:
        """The labels [T, bins] float32, from the bin of every step, [T]."""
        ahead = np.zeros((len(binned), self.bins))
        ahead[np.arange(len(binned)), binned] = 1
        counts = np.cumsum(ahead[::-1], axis=0)[::-1]
        return (counts / np.arange(len(binned), 0, -1)[:, None]).astype(np.float32)


def check_shares(shares: tuple[float, ...], bins: int, where: str) -> None:
    """UserError unless `shares` are `bins` finite numbers, none negative and not all 0."""
    array = np.array(shares, np.float64)
    require(
        array.shape == (bins,),
        f"{where} has {len(array)} numbers for {bins} bins; give one for each",
    )
    positive = bool(np.isfinite(array).all() and (array >= 0).all() and array.sum() > 0)
    require(positive, f"{where} must hold finite numbers from 0 up, not all of them 0")


def wasserstein(first: np.ndarray, second: np.ndarray, width: float) -> float:
    """The 1-Wasserstein (earth mover's) distance of two distributions over the same bins [bins].

    It is in the feature's unit, with each bin's mass at its centre. In one dimension it is the area
    between the cumulative distributions. width: that of a bin.
    """
    return float(np.abs(np.cumsum(first - second)).sum() * width)
