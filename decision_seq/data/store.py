"""EpisodeStore: offline data as flat, memory-mapped columns and episode offsets.

A store is a directory:

    header.json            source, checksum, environment, statistics, the columns' shapes
    observations.npy       [N, ...] float32 (frames stay uint8)
    actions.npy            [N, A] float32, or [N] int64 when discrete
    rewards.npy            [N] float64
    final_observations.npy [E, ...] the observation after each episode, where the source has it
    offsets.npy            [E + 1] int64: episode e is rows offsets[e] to offsets[e + 1]
    terminated.npy, truncated.npy   [E] bool

It is written beside its name and renamed when whole. One fancy index gathers any set of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.types import Episode, UserError

FORMAT = 1
HEADER_KEYS = (
    "name",
    "source",
    "env_id",
    "family",
    "max_episode_steps",
    "transitions_in",
    "statistics",
    "columns",
)
STEP_COLUMNS = ("observations", "actions", "rewards")
EPISODE_COLUMNS = ("offsets", "terminated", "truncated")


class StoreDamaged(UserError):
    """The directory is a store cut short, or its header does not describe its columns."""


class Column:
    """A memory-mapped array of rows, gathered by one fancy index."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows of any shape R -> [*R, ...]."""
        return self.array[rows]


@dataclass(frozen=True)
class EpisodeStore:
    """Open data. Nothing but touched pages is in memory."""

    path: Path
    header: dict[str, Any]
    columns: dict[str, Column]
    offsets: np.ndarray  # [E + 1]
    terminated: np.ndarray  # [E]
    truncated: np.ndarray  # [E]

    @classmethod
    def open(cls, path: Path) -> EpisodeStore:
        """Open a store in milliseconds; StoreDamaged when it is not whole, UserError if absent."""
        path = Path(path)
        try:
            header = json.loads((path / "header.json").read_text())
        except FileNotFoundError as error:
            raise UserError(f"{path} is no episode store: it has no header.json") from error
        except (OSError, ValueError, RecursionError) as error:
            raise StoreDamaged(f"store {path}: header.json cannot be read; delete it") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise StoreDamaged(
                f"store {path} is not of format {FORMAT}; delete it to have it rebuilt"
            )
        absent = [key for key in HEADER_KEYS if key not in header]
        if absent:
            raise StoreDamaged(f"store {path}: header.json lacks {absent[0]!r}; delete the store")
        arrays = {
            name: _open_column(path, name, facts) for name, facts in header["columns"].items()
        }
        missing = [name for name in (*STEP_COLUMNS, *EPISODE_COLUMNS) if name not in arrays]
        if missing:
            raise StoreDamaged(f"store {path} lacks the column {missing[0]}; delete it to rebuild")
        episodic = {name: np.asarray(arrays.pop(name)) for name in EPISODE_COLUMNS}
        offsets = episodic["offsets"]
        if offsets[0] != 0 or (np.diff(offsets) < 1).any() or offsets[-1] != len(arrays["rewards"]):
            raise StoreDamaged(f"store {path}: its offsets do not fit its columns; delete it")
        return cls(
            path, header, {name: Column(array) for name, array in arrays.items()}, **episodic
        )

    @property
    def name(self) -> str:
        return self.header["name"]

    @property
    def source(self) -> str:
        """One line that says where the data come from."""
        return self.header["source"]["description"]

    @property
    def num_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_transitions(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @cached_property
    def returns(self) -> np.ndarray:
        """[E] float64: the undiscounted return of every episode."""
        return np.add.reduceat(self.columns["rewards"].array, self.offsets[:-1], dtype=np.float64)

    @property
    def observation_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population standard deviation over all observations, [S] each."""
        statistics = self.header["statistics"]
        return np.array(statistics["observation_mean"]), np.array(statistics["observation_std"])

    def episode(self, index: int) -> Episode:
        """Episode `index`, with its final observation where the store has them."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        observations, actions, rewards = (self.columns[name].array[rows] for name in STEP_COLUMNS)
        if "final_observations" in self.columns:
            final = self.columns["final_observations"].array[index : index + 1]
            observations = np.concatenate([observations, final])
        ended = bool(self.terminated[index]), bool(self.truncated[index])
        return Episode(observations, actions, rewards, *ended)

    def episodes(self) -> Iterator[Episode]:
        return (self.episode(index) for index in range(self.num_episodes))


def _open_column(path: Path, name: str, facts: dict[str, Any]) -> np.ndarray:
    if not name.isidentifier():  # a header may not lead out of its folder
        raise StoreDamaged(f"store {path}: {name!r} is no name of a column; delete the store")
    try:
        array = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreDamaged(f"store {path}: {name}.npy cannot be read; delete the store") from error
    if [*array.shape] != facts["shape"] or array.dtype.str != facts["dtype"]:
        raise StoreDamaged(
            f"store {path}: {name}.npy is {array.dtype.str}{[*array.shape]}, its header says"
            f" {facts['dtype']}{facts['shape']}; delete the store"
        )
    return array
