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

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from decision_seq.data.header import STATISTICS, header_fault
from decision_seq.data.identity import sha256
from decision_seq.envs import FACTS
from decision_seq.types import Episode, UserError

FORMAT = 2
STEP_COLUMNS = ("observations", "actions", "rewards")
EPISODE_COLUMNS = ("offsets", "terminated", "truncated")


class StoreDamaged(UserError):
    """The directory is a store cut short, or its header does not describe its columns."""


class Column:
    """A memory-mapped array of rows, gathered by one fancy index."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)  # numpy's own class indexes faster than its memmap
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows of any shape R -> [*R, ...]."""
        return self.array[rows]

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows start to start + length - 1 of every start [B] -> [B, length, ...].

        One copy a window rather than one a row. Behind the last row the last is repeated.
        """
        last = len(self) - length
        if last < 0 or starts.max() > last:
            steps = np.arange(length)
            return self.array[np.minimum(starts[:, None] + steps, len(self) - 1)]
        shape = (last + 1, length, *self.shape[1:])
        strides = (self.array.strides[0], *self.array.strides)
        return np.lib.stride_tricks.as_strided(self.array, shape, strides, writeable=False)[starts]


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
        header = _read_header(path)
        arrays = {
            name: _open_column(path, name, facts) for name, facts in header["columns"].items()
        }
        _check_columns(path, arrays)
        _check_statistics(path, header["statistics"], arrays)
        episodic = {name: np.asarray(arrays.pop(name)) for name in EPISODE_COLUMNS}
        return cls(
            path, header, {name: Column(array) for name, array in arrays.items()}, **episodic
        )

    def verify(self) -> None:
        """Read every column through; StoreDamaged when one is not what was written."""
        for name, facts in self.header["columns"].items():
            if sha256(self.path / f"{name}.npy") != facts["sha256"]:
                raise _damaged(self.path, f"{name}.npy is not what was written (checksum)")

    @property
    def name(self) -> str:
        return self.header["name"]

    @property
    def source(self) -> str:
        """One line that says where the data come from."""
        return self.header["source"]["description"]

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """(random, expert) raw returns: the dataset's own, else the task's, else unknown."""
        own = self.header["reference_scores"]
        facts = FACTS.get(self.header["family"] or "")
        return (own[0], own[1]) if own else facts.reference_scores if facts else None

    @property
    def checksum(self) -> str:
        """One digest for the data of all columns: equal data, equal checksum."""
        columns = sorted(self.header["columns"].items())
        lines = [f"{name} {facts['sha256']}" for name, facts in columns]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

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


def _damaged(path: Path, what: str) -> StoreDamaged:
    return StoreDamaged(f"store {path}: {what}; delete the store to have it rebuilt")


def _read_header(path: Path) -> dict[str, Any]:
    file = path / "header.json"
    if not file.is_file():  # a pipe or a device would be waited for
        raise UserError(f"{path} is no episode store: it has no header.json")
    try:
        header = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, "header.json cannot be read") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _damaged(path, f"it is not of format {FORMAT}")
    fault = header_fault(header)
    if fault:
        raise _damaged(path, fault)
    return header


def _open_column(path: Path, name: str, facts: dict[str, Any]) -> np.ndarray:
    file = path / f"{name}.npy"
    try:
        if not file.is_file():
            raise OSError("it is no regular file")
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        raise _damaged(path, f"{name}.npy cannot be read") from error
    if not isinstance(array, np.ndarray):  # an archive under another name
        raise _damaged(path, f"{name}.npy is no array")
    if [*array.shape] != facts["shape"] or array.dtype.str != facts["dtype"]:
        raise _damaged(
            path,
            f"{name}.npy is {array.dtype.str}{[*array.shape]}, its header says"
            f" {facts['dtype']}{facts['shape']}",
        )
    return array


def _check_statistics(
    path: Path, statistics: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """StoreDamaged unless they are of the sizes of what they describe: numpy would stretch them."""
    sizes = {"observation": arrays["observations"].shape[1:], "action": arrays["actions"].shape[1:]}
    for key in STATISTICS[:-1]:
        if np.shape(statistics[key]) != sizes[key.partition("_")[0]]:
            raise _damaged(path, f"header.json: {key} is of shape {np.shape(statistics[key])}")


def _check_columns(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """StoreDamaged unless the columns fit each other: every later use relies on it."""
    missing = [name for name in (*STEP_COLUMNS, *EPISODE_COLUMNS) if name not in arrays]
    if missing:
        raise _damaged(path, f"it lacks the column {missing[0]}")
    observations, actions, rewards = (arrays[name] for name in STEP_COLUMNS)
    offsets, terminated, truncated = (arrays[name] for name in EPISODE_COLUMNS)
    episodes = len(offsets) - 1 if offsets.ndim == 1 else 0
    fits = {
        "observations": observations.ndim >= 2 and observations.dtype in (np.float32, np.uint8),
        "actions": (actions.ndim, actions.dtype) in ((2, np.float32), (1, np.int64)),
        "rewards": (rewards.ndim, rewards.dtype) == (1, np.float64),
        "offsets": episodes > 0 and offsets.dtype == np.int64,
        "terminated": terminated.shape == (episodes,) and terminated.dtype == bool,
        "truncated": truncated.shape == (episodes,) and truncated.dtype == bool,
    }
    if "final_observations" in arrays:
        final = arrays["final_observations"]
        shape = (episodes, *observations.shape[1:])
        fits["final_observations"] = (final.shape, final.dtype) == (shape, observations.dtype)
    wrong = [name for name, fit in fits.items() if not fit]
    if wrong:
        array = arrays[wrong[0]]
        raise _damaged(path, f"{wrong[0]} cannot be {array.dtype.str}{[*array.shape]}")
    rows = {len(observations), len(actions), len(rewards), int(offsets[-1])}
    if offsets[0] != 0 or (np.diff(offsets) < 1).any() or len(rows) > 1:
        raise _damaged(path, "its offsets do not fit its columns")
    unknown = arrays.keys() - {*fits, "final_observations"}
    if unknown:
        raise _damaged(path, f"nobody knows its column {min(unknown)}")
    if (terminated & truncated).any():
        raise _damaged(path, "an episode is both terminated and truncated")
