"""Which of DQN-replay's transitions are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from decision_seq.config import require
from decision_seq.data.replay_shards import open_terminals
from decision_seq.types import UserError

ORIGINAL_ROWS, ORIGINAL_EPISODES = 100_000, 11  # of a shard that it reads; of a visit


@dataclass(frozen=True)
class ReplayConfig:
    """What is taken of DQN-replay's logs.

    scheme: `all` that is at hand, which is what whoever fetched some shards expects; `first`, whole
    episodes from the first shard on until there are `transitions`; `original`, the Decision
    Transformer's draw: visits to shards drawn uniformly by `seed`, of 11 further episodes each and
    within a shard's first 100,000 transitions, until there are `transitions`, padding included
    (kzl/decision-transformer, atari/create_dataset.py).
    keep_padding: keep Dopamine's zero transitions, as the original does.
    """

    scheme: Literal["all", "first", "original"] = "all"
    transitions: int = 500_000
    seed: int = 0
    keep_padding: bool = False

    def __post_init__(self) -> None:
        wanted = self.transitions
        require(wanted >= 1, f"config: replay.transitions {wanted} must be at least 1")
        require(0 <= self.seed < 2**32, f"config: replay.seed {self.seed} must be in [0, 2**32)")


def original_draw(folder: Path, numbers: Sequence[int], config: ReplayConfig) -> dict[int, int]:
    """How many episodes of each shard the Decision Transformer's code would take.

    Told by the terminals alone. It draws a shard, goes on reading where it stopped there, and
    leaves the visit out when it would reach the shard's 100,000th row.
    """
    ends = {number: _ends(folder, number) for number in numbers}
    rng = np.random.RandomState(config.seed)  # the original's own numbers
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
    """Where the episodes end that a visit may read: before the last row that the original loads."""
    terminals = open_terminals(folder, number)[:ORIGINAL_ROWS]
    ends = np.flatnonzero(terminals) + 1
    return ends[ends < len(terminals)].tolist()


def too_few(folder: Path, found: int, config: ReplayConfig) -> UserError:
    return UserError(
        f"{folder} holds only {found:,} of the {config.transitions:,} transitions asked for by the"
        f" scheme {config.scheme}; ask for fewer by --replay.transitions, fetch more shards, or"
        " take --replay.scheme all"
    )
