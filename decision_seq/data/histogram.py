"""The distribution of a feature over all that is still to come, as a condition.

The Categorical Decision Transformer of Furuta et al., 2022 (frt03/generalized_dt train_cdt.py), and
the distance between two such distributions, by which it is judged.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning
from decision_seq.data.features import Featured
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Episode

MOST_BINS = 10_000


@Conditioning.register_subclass("histogram")
@dataclass(frozen=True)
class Histogram(Featured):
    """Labels [T, bins]: of step t the shares of the steps t..T-1 whose feature is in each bin.

    bins: of equal width between low and high, null for the least and the largest value of the
        data; what lies beyond belongs to the outer bins.
    target: what a rollout is given from its first step to its last, shares or counts; null for the
        distribution of the data's best episode.
    """

    fields: ClassVar[tuple[str, ...]] = ("histogram",)
    bins: int = 30
    low: float | None = None
    high: float | None = None
    target: tuple[float, ...] | None = None

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
        """[bins + 1]."""
        if self.low is None or self.high is None:
            raise ValueError("the range is not resolved: call resolved(store) first")
        return np.linspace(self.low, self.high, self.bins + 1)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """How values [N] of the feature are distributed, [bins] float64."""
        counts = np.bincount(self._binned(values), minlength=self.bins)
        return counts / len(values)

    def relabel(self, episode: Episode) -> np.ndarray:
        return self._labels(self._binned(self.of_episode(episode)))

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel` does, from the feature's column alone."""
        binned = self._binned(self.of_store(store))
        for start, end in itertools.pairwise(store.offsets):
            out[start:end] = self._labels(binned[start:end])

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        if self.target is None:
            raise ValueError("the target is not resolved: call resolved(store) first")
        wanted = np.array(self.target, np.float64)
        return np.tile((wanted / wanted.sum()).astype(np.float32), (len(targets), 1))

    def resolved(self, store: EpisodeStore) -> Histogram:
        """UserError where the feature never varies in the data and no range is given."""
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
        """[N] the bin of each value; a bin holds its lower edge."""
        return np.searchsorted(self.edges[1:-1], values, side="right")

    def _labels(self, binned: np.ndarray) -> np.ndarray:
        """[T] the bin of every step -> [T, bins] float32."""
        ahead = np.zeros((len(binned), self.bins))
        ahead[np.arange(len(binned)), binned] = 1
        counts = np.cumsum(ahead[::-1], axis=0)[::-1]
        return (counts / np.arange(len(binned), 0, -1)[:, None]).astype(np.float32)


def check_shares(shares: tuple[float, ...], bins: int, where: str) -> None:
    """UserError unless they are so many numbers, none below 0 and not all of them 0."""
    array = np.array(shares, np.float64)
    require(
        array.shape == (bins,),
        f"{where} has {len(array)} numbers for {bins} bins; give one for each",
    )
    positive = bool(np.isfinite(array).all() and (array >= 0).all() and array.sum() > 0)
    require(positive, f"{where} must hold finite numbers from 0 up, not all of them 0")


def wasserstein(first: np.ndarray, second: np.ndarray, width: float) -> float:
    """The 1-Wasserstein (earth mover's) distance of two distributions over the same bins [bins].

    In the feature's unit, each bin's mass at its centre; width: of a bin. On a line it is the area
    between the cumulative distributions.
    """
    return float(np.abs(np.cumsum(first - second)).sum() * width)
