"""Selection of the episodes to train on: the best ones, without the held-out ones.

Selections are masks over a store's episodes; no data are copied. Held-out episodes influence
training in two ways only. The mean and deviation that standardise observations are those of the
whole store, so that they are equal in runs with and without held-out episodes; the original also
computes them before it filters. Values that a conditioning takes from the data, such as the scale
of returns, come from all episodes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from decision_seq.datasets.store import EpisodeStore
from decision_seq.types import UserError

_STREAM = 0x4E1D  # seed of the held-out episodes, which are the same for every seed of a run


def best_of(
    lengths: np.ndarray, returns: np.ndarray, fraction: float, among: np.ndarray
) -> np.ndarray:
    """The episodes with the highest returns that make up `fraction` of the steps, [E] bool.

    lengths, returns, among: [E]; only episodes in `among` are considered. In order from the best,
    episodes are selected while their steps stay within the fraction. The first that does not fit
    ends the selection; the best is always selected (kzl/decision-transformer gym/experiment.py,
    pct_traj).
    """
    candidates = np.flatnonzero(among)
    ranked = candidates[np.argsort(-returns[candidates], kind="stable")]
    steps = np.cumsum(lengths[ranked])
    budget = int(fraction * lengths[candidates].sum())
    selected = ranked[: max(int(np.searchsorted(steps, budget, side="right")), 1)]
    return _mask(selected, len(lengths))


def held_out(count: int, fraction: float) -> np.ndarray:
    """The held-out episodes of a store of `count`, [E] bool; no window is drawn from them.

    They are the same for every seed of a run, and a larger fraction includes those of a smaller
    one. At least one is held out where the fraction is above 0, and never all. UserError for a
    store of a single episode.
    """
    if fraction == 0:
        return np.zeros(count, bool)
    if count == 1:
        raise UserError("config: held_out leaves nothing to train on: the data are one episode")
    size = min(max(round(fraction * count), 1), count - 1)
    return _mask(np.random.default_rng(_STREAM).permutation(count)[:size], count)


def trained_on(
    store: EpisodeStore,
    unfinished: Literal["keep", "exclude"],
    best_fraction: float,
    held_out_fraction: float,
    least_return: float | None = None,
) -> np.ndarray:
    """The episodes in which windows may start, [E] bool; UserError when none is left.

    The best are chosen among the episodes that are not held out and returned at least
    `least_return`. With `exclude` only episodes that have an end are candidates.
    """
    among = ~held_out(store.num_episodes, held_out_fraction)
    if unfinished == "exclude":
        among &= store.terminated | store.truncated
    if not among.any():
        raise UserError(
            "no episode to train on is left: those that have an end are all held out; lower"
            " --held_out, or train with --unfinished keep"
        )
    if least_return is not None:
        best = store.returns[among].max()
        among &= store.returns >= least_return
        if not among.any():
            raise UserError(
                f"no episode to train on is left: the best of them returned {best:,.6g}, and"
                f" --least_return asks for {least_return:,.6g}; lower it"
            )
    if best_fraction == 1:
        return among
    return best_of(store.lengths, store.returns, best_fraction, among)


def _mask(chosen: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[chosen] = True
    return mask
