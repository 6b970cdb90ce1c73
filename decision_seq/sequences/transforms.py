"""Views of a store with transformed rewards.

Transformed columns are computed in memory; all others are shared with the original store.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decision_seq.datasets.store import Column, EpisodeStore


def delayed(store: EpisodeStore) -> EpisodeStore:
    """The store with each episode's return as the reward of its last step, and rewards 0 before.

    The returns are the same to the bit; the return-to-go of every step is the return. (Chen et al.,
    2021, section 5; kzl/decision-transformer gym/experiment.py, mode `delayed`.)
    """
    rewards = np.zeros(store.num_transitions)
    rewards[store.offsets[1:] - 1] = store.returns
    columns = {**store.columns, "rewards": Column(rewards)}
    return replace(store, columns=columns, delayed=True)
