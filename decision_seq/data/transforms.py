"""Stores that present other data than are written in their folder.

What changes is made anew in memory, everything else is shared with the store as it was opened.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decision_seq.data.columns import Column
from decision_seq.data.store import EpisodeStore


def delayed(store: EpisodeStore) -> EpisodeStore:
    """The store with each episode's rewards as one sum at its last step, and 0 before.

    The returns are the same to the bit; the return-to-go is the return throughout. (Chen et al.,
    2021, section 5; kzl/decision-transformer gym/experiment.py, mode `delayed`.)
    """
    rewards = np.zeros(store.num_transitions)
    rewards[store.offsets[1:] - 1] = store.returns
    columns = {**store.columns, "rewards": Column(rewards)}
    return replace(store, columns=columns, delayed=True)
