"""Selection of transitions from DQN-replay's logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.dqn_replay.shards import open_terminals
from decision_seq.types import UserError

# The Decision Transformer's code reads so many rows of a shard, and so many episodes per visit.
ORIGINAL_ROWS, ORIGINAL_EPISODES = 100_000, 11


@dataclass(frozen=True)
class ReplayConfig:
    """Selection of transitions from DQN-replay's logs; other datasets ignore it."""

    scheme: Literal["all", "first", "original"] = "all"
    """Rule of the selection.

    `all`: every transition of the local shards, which may be a few of the 50. `first`: whole
    episodes from the first shard on until there are `transitions`. `original`: the Decision
    Transformer's draw; it visits shards drawn uniformly by `seed` and takes the next 11 episodes
    within a shard's first 100,000 transitions, until there are `transitions`, padding included
    (kzl/decision-transformer, atari/create_dataset.py).
    """
    transitions: int = 500_000
    """Transitions to select; not used by the scheme `all`."""
    seed: int = 0
    """Seed of the scheme `original`."""
    keep_padding: bool = False
    """Whether to include Dopamine's zero transitions before episodes, as the original does."""

    def __post_init__(self) -> None:
        wanted = self.transitions
        require(wanted >= 1, f"config: replay.transitions {wanted} must be at least 1")
        require(0 <= self.seed < 2**32, f"config: replay.seed {self.seed} must be in [0, 2**32)")


def original_draw(folder: Path, numbers: Sequence[int], config: ReplayConfig) -> dict[int, int]:
    """The draw of the Decision Transformer's code: shard -> number of its first episodes.

    It depends on the terminals only. The code draws a shard, continues where the last visit to it
    ended, and skips a visit that would reach the shard's 100,000th row.
    """
    ends = {number: _ends(folder, number) for number in numbers}
    rng = np.random.RandomState(config.seed)  # the original's random numbers
    taken, rows, open_ = dict.fromkeys(numbers, 0), 0, set(numbers)
    while rows < config.transitions:
        if not open_:
            raise too_few(folder, rows, config)
        number = int(rng.choice(list(numbers), 1)[0])
        first, last = taken[number], taken[number] + ORIGINAL_EPISODES
        if last > len(ends[number]):
            open_.discard(number)
            continue
        rows += ends[number][last - 1] - (ends[number][first - 1] if first else 0)
        taken[number] = last
    return {number: count for number, count in taken.items() if count}


def _ends(folder: Path, number: int) -> list[int]:
    """Ends of the episodes that a visit may read: those before the last row the original loads."""
    terminals = open_terminals(folder, number)[:ORIGINAL_ROWS]
    ends = np.flatnonzero(terminals) + 1
    return ends[ends < len(terminals)].tolist()


def too_few(folder: Path, found: int, config: ReplayConfig) -> UserError:
    """The error for a folder with fewer transitions than requested."""
    return UserError(
        f"{folder} holds only {found:,} of the {config.transitions:,} transitions requested by the"
        f" scheme {config.scheme}; request fewer by --replay.transitions, fetch more shards, or use"
        " --replay.scheme all"
    )
