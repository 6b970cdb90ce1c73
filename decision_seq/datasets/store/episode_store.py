"""EpisodeStore: offline data as flat, memory-mapped columns and episode offsets.

A store is a directory:

    header.json            source, checksum, environment, statistics, the columns' shapes
    observations.npy       [N, ...] float32 (images stay uint8), opened as vectors [N, S]
    observations.frames    instead of it if the header has `stack`: see `frames`
    actions.npy            [N, A] float32, or [N] int64 if discrete
    rewards.npy            [N] float64
    final_observations.npy [E, ...] the observation after each episode, if the source has it
    offsets.npy            [E + 1] int64: episode e is rows offsets[e] to offsets[e + 1]
    terminated.npy, truncated.npy   [E] bool

It is written under a temporary name and renamed when complete. One fancy index gathers any rows.

Optional entries of the header: `stack`, if the observations are single frames; an environment shows
so many of them at one step, the newest last, with zeros before an episode's first. `choices`, the
number of discrete actions, and `first_choice`, the smallest. `action_bounds`, the bounds
[low, high] of the action space's entries, null where there is none. `clipped`, if rewards were
clipped to [-1, 1].
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from decision_seq.datasets.store.column import (
    Column,
    StoreDamaged,
    cannot_open,
    cannot_read,
    damaged,
)
from decision_seq.datasets.store.frames import FrameColumn, file_name
from decision_seq.datasets.store.header import STATISTICS, header_fault
from decision_seq.datasets.store.source_files import sha256
from decision_seq.envs import FACTS, ActionSpace
from decision_seq.reading import Absent, Unreadable, open_file, read_json
from decision_seq.types import Episode, UserError

FORMAT = 2
STEP_COLUMNS = ("observations", "actions", "rewards")
EPISODE_COLUMNS = ("offsets", "terminated", "truncated")


@dataclass(frozen=True, repr=False)
class EpisodeStore:
    """An open dataset of episodes; only the pages that are read are in memory."""

    path: Path
    header: dict[str, Any]
    columns: dict[str, Column]
    offsets: np.ndarray  # [E + 1]
    terminated: np.ndarray  # [E]
    truncated: np.ndarray  # [E]
    delayed: bool = False  # see `transforms.delayed`

    def __repr__(self) -> str:
        return (
            f"EpisodeStore({str(self.path)!r}: {self.num_episodes:,} episodes,"
            f" {self.num_transitions:,} transitions)"
        )

    @classmethod
    def open(cls, path: Path) -> EpisodeStore:
        """Open a store in milliseconds; StoreDamaged if it is not whole, UserError if absent."""
        path = Path(path)
        header = _read_header(path)
        columns = {
            name: _open_column(path, name, facts) for name, facts in header["columns"].items()
        }
        _check_columns(path, columns, header.get("stack", 1))
        _check_statistics(path, header, columns)
        if header.get("stack", 1) == 1:
            for name in columns.keys() & {"observations", "final_observations"}:
                columns[name] = _vectors(columns[name])
        offsets, terminated, truncated = (columns.pop(name).array for name in EPISODE_COLUMNS)
        return cls(path, header, columns, offsets, terminated, truncated)

    @classmethod
    def open_sound(cls, path: Path) -> EpisodeStore | None:
        """The store at a path; None where there is none, or a damaged one that may be replaced.

        UserError for one that may be sound and cannot be opened now.
        """
        try:
            return cls.open(path)
        except StoreDamaged:
            return None
        except UserError:
            if os.path.lexists(path / "header.json"):
                raise
            return None

    def verify(self) -> None:
        """Read all columns and compare their checksums; StoreDamaged if one has changed."""
        for name, facts in self.header["columns"].items():
            file = column_file(self.path, name, facts)
            if sha256(file) != facts["sha256"]:
                raise damaged(self.path, f"{file.name} is not what was written (checksum)")

    def limit_memory(self, mebibytes: int) -> None:
        """Limit the cache of decoded frames; other columns use the page cache."""
        for column in self.columns.values():
            if isinstance(column, FrameColumn):
                column.limit(mebibytes)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.header["name"]

    @property
    def source(self) -> str:
        """The origin of the data, in one line."""
        return self.header["source"]["description"]

    @property
    def notes(self) -> list[str]:
        """What its reader says of how it understood the source, in lines."""
        notes = self.header["source"].get("notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """(random, expert) raw returns: the dataset's own, else the task's; None if unknown."""
        own = self.header["reference_scores"]
        facts = FACTS.get(self.header["family"] or "")
        return (own[0], own[1]) if own else facts.reference_scores if facts else None

    @property
    def checksum(self) -> str:
        """One digest for the data of all columns: equal data, equal checksum."""
        columns = sorted(self.header["columns"].items())
        lines = [f"{name} {facts['sha256']}" for name, facts in columns]
        lines += ["delayed"] if self.delayed else []
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def stack(self) -> int:
        """Number of frames in one observation; 1 if observations are not stacked."""
        return self.header.get("stack", 1)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation: [stack, H, W] of frames, else a row's shape."""
        row = self.columns["observations"].shape[1:]
        return (self.stack, *row) if self.stack > 1 else row

    @property
    def choices(self) -> int | None:
        """Number of the environment's discrete actions; None if unknown or not discrete."""
        return self.header.get("choices")

    @property
    def action_space(self) -> ActionSpace | None:
        """The action space of the environment of the data; None if they do not say it."""
        if self.choices is not None:
            return ActionSpace("discrete", self.choices, self.header.get("first_choice", 0))
        bounds = self.header.get("action_bounds")
        size = self.columns["actions"].shape[1:]
        if bounds is None or size != (len(bounds[0]),):
            return None
        low, high = (
            np.array([unbounded if b is None else b for b in bound], np.float64)
            for bound, unbounded in zip(bounds, (-np.inf, np.inf), strict=True)
        )
        return ActionSpace("continuous", len(low), 0, (low, high), size, np.float32)

    @property
    def clipped(self) -> bool:
        """Whether the rewards were clipped to [-1, 1]; returns are then not the task's scores."""
        return self.header.get("clipped", False)

    @property
    def num_episodes(self) -> int:
        """Number of episodes, E."""
        return len(self.offsets) - 1

    @property
    def num_transitions(self) -> int:
        """Number of transitions, N."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """[E] int64: the number of steps of every episode."""
        return np.diff(self.offsets)

    @cached_property
    def returns(self) -> np.ndarray:
        """[E] float64: the undiscounted return of every episode."""
        return np.add.reduceat(self.columns["rewards"].array, self.offsets[:-1], dtype=np.float64)

    @property
    def observation_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population standard deviation over all observations, [S] each.

        For frames they are taken over all pixels, [] each.
        """
        statistics = self.header["statistics"]
        mean, std = (np.array(statistics[f"observation_{key}"]) for key in ("mean", "std"))
        return (mean, std) if self.stack > 1 else (mean.reshape(-1), std.reshape(-1))

    def episode(self, index: int) -> Episode:
        """Episode `index`, with its final observation if the store has them."""
        rows = int(self.offsets[index]), int(self.offsets[index + 1])
        observations, actions, rewards = (self.columns[name].rows(*rows) for name in STEP_COLUMNS)
        if "final_observations" in self.columns:
            final = self.columns["final_observations"].rows(index, index + 1)
            observations = np.concatenate([observations, final])
        ended = bool(self.terminated[index]), bool(self.truncated[index])
        return Episode(observations, actions, rewards, *ended)

    def episodes(self) -> Iterator[Episode]:
        """All episodes, in order."""
        return (self.episode(index) for index in range(self.num_episodes))


def _vectors(column: Column) -> Column:
    """Observations of any shape as vectors [N, S], by the rule of `envs.observations`; no copy."""
    return column if len(column.shape) == 2 else Column(column.array.reshape(len(column), -1))


def column_file(path: Path, name: str, facts: dict[str, Any]) -> Path:
    """The file of a column, given its entry in the header."""
    return path / (file_name(name) if "block" in facts else f"{name}.npy")


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = read_json(path / "header.json", within=path)
    except Absent as error:
        raise UserError(f"{path} is no episode store: it has no header.json") from error
    except Unreadable as error:
        raise cannot_open(path, "header.json", error) from error
    if header.get("format") != FORMAT:
        raise damaged(path, f"it is not of format {FORMAT}")
    fault = header_fault(header)
    if fault:
        raise damaged(path, fault)
    return header


def _open_column(path: Path, name: str, facts: dict[str, Any]) -> Column:
    file = column_file(path, name, facts)
    try:
        open_file(file, within=path).close()  # a pipe or a device would block
    except Unreadable as error:
        raise cannot_open(path, file.name, error) from error
    if "block" in facts:
        if facts["dtype"] != "|u1" or len(facts["shape"]) != 3:
            raise damaged(path, f"{file.name} cannot be {facts['dtype']}{facts['shape']}")
        return FrameColumn(file, tuple(facts["shape"]), facts["block"])
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        raise cannot_read(path, file.name, error) from error
    if not isinstance(array, np.ndarray):  # an .npz archive with the suffix .npy
        raise damaged(path, f"{file.name} is no array")
    if [*array.shape] != facts["shape"] or array.dtype.str != facts["dtype"]:
        raise damaged(
            path,
            f"{file.name} is {array.dtype.str}{[*array.shape]}, its header says"
            f" {facts['dtype']}{facts['shape']}",
        )
    return Column(array)


def _check_statistics(path: Path, header: dict[str, Any], columns: dict[str, Column]) -> None:
    """Raise StoreDamaged unless the statistics fit their columns: numpy would broadcast them."""
    frames = header.get("stack", 1) > 1
    sizes = {
        "observation": () if frames else columns["observations"].shape[1:],
        "action": columns["actions"].shape[1:],
    }
    for key in STATISTICS[:-1]:
        shape = np.shape(header["statistics"][key])
        if shape != sizes[key.partition("_")[0]]:
            raise damaged(path, f"header.json: {key} is of shape {shape}")


def _check_columns(path: Path, columns: dict[str, Column], stack: int) -> None:
    """Raise StoreDamaged unless the columns fit each other; all later code relies on it."""
    missing = [name for name in (*STEP_COLUMNS, *EPISODE_COLUMNS) if name not in columns]
    if missing:
        raise damaged(path, f"it lacks the column {missing[0]}")
    if {name for name, column in columns.items() if isinstance(column, FrameColumn)} != (
        {"observations"} if stack > 1 else set()
    ):
        raise damaged(path, f"header.json: a stack of {stack} does not fit its columns")
    kinds = {name: (len(column.shape), column.dtype) for name, column in columns.items()}
    episodes = columns["offsets"].shape[0] - 1 if kinds["offsets"] == (1, np.int64) else 0
    row = columns["observations"].shape[1:]
    fits = {
        "observations": kinds["observations"][1] in (np.float32, np.uint8) and len(row) >= 1,
        "actions": kinds["actions"] in ((2, np.float32), (1, np.int64)),
        "rewards": kinds["rewards"] == (1, np.float64),
        "offsets": episodes > 0,
    }
    flags = dict.fromkeys(("terminated", "truncated"), ((episodes,), np.dtype(bool)))
    final = {"final_observations": ((episodes, *row), kinds["observations"][1])}
    for name, needed in (flags | final).items():
        if name in columns:
            fits[name] = (columns[name].shape, columns[name].dtype) == needed
    wrong = [name for name, fit in fits.items() if not fit]
    if wrong:
        column = columns[wrong[0]]
        raise damaged(path, f"{wrong[0]} cannot be {column.dtype.str}{[*column.shape]}")
    offsets = columns["offsets"].array
    rows = {*(len(columns[name]) for name in STEP_COLUMNS), int(offsets[-1])}
    if offsets[0] != 0 or (np.diff(offsets) < 1).any() or len(rows) > 1:
        raise damaged(path, "its offsets do not fit its columns")
    unknown = columns.keys() - fits.keys()
    if unknown:
        raise damaged(path, f"its column {min(unknown)} is unknown")
    if (columns["terminated"].array & columns["truncated"].array).any():
        raise damaged(path, "an episode is both terminated and truncated")
