"""The flat layout of D4RL: one row a transition, episodes end to end.

The columns are `observations`, `actions`, `rewards`, `terminals`, and in newer files `timeouts` and
`next_observations`. Real files vary, and these variants are accepted: flags stored as floats,
rewards of shape (N, 1), float64 throughout, discrete actions (N,), no `timeouts` (an episode then
ends at its terminal or at the task's step limit), and a last episode without an end. No transition
is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from decision_seq import envs
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.task_entries import task
from decision_seq.types import Episode, UserError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "unfinished")
BLOCK_ROWS = 65_536  # rows held in memory at once, rounded up to whole episodes


class Rows(Protocol):
    """A column on disk: an h5py dataset or a streamed one. Slices are read in order."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice) -> np.ndarray: ...


# Trajectories do not compress a hundredfold; a file that does is made to fill a disk.
BOMB_RATIO, BOMB_BYTES = 100, 2**28


def refuse_bomb(packed: int, size: int) -> None:
    """Raise UserError if `packed` bytes would unpack to an implausible `size`."""
    if size > BOMB_BYTES and size > BOMB_RATIO * packed:
        raise UserError(
            f"its {packed / 1e6:.1f} MB would unpack to {size / 1e9:.1f} GB, which no trajectories"
            " do; it is not read"
        )


def check(columns: Mapping[str, Rows], found: str) -> None:
    """Raise UserError unless the columns exist, are numeric and have one length.

    found: the names in the file, for the message.
    """
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        hint = "is it in D4RL's layout?"
        if missing == ["rewards"]:
            hint = (
                "OGBench's files have no rewards, and one row more an episode: that layout is not"
                " read; write rewards and D4RL's rows first"
            )
        raise UserError(f"it has no {missing[0]!r} (it holds {found}); {hint}")
    for name, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise UserError(f"{name} is {column.dtype}, not numbers")
        if len(column.shape) == 0:
            raise UserError(f"{name} is a single number; one row a transition is needed")
    rows = {name: column.shape[0] for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"columns differ in length ({listed}); fetch it again")
    count = rows["rewards"]
    if count == 0:
        raise UserError("it holds no transition")
    for name in ("rewards", "terminals", "timeouts", "unfinished"):
        if name in columns and int(np.prod(columns[name].shape)) != count:
            raise UserError(f"{name} has shape {columns[name].shape}; one a row is needed")
    observations, actions = columns["observations"], columns["actions"]
    if len(observations.shape) < 2 or 0 in observations.shape:
        raise UserError(f"observations has shape {observations.shape}; rows of numbers are needed")
    if len(actions.shape) > 2 or 0 in actions.shape:
        raise UserError(f"actions has shape {actions.shape}; rows of numbers are needed")
    following = columns.get("next_observations")
    if following is not None and following.shape != observations.shape:
        raise UserError(
            f"next_observations has shape {following.shape}, observations {observations.shape}"
        )
    if following is not None and (following.dtype == np.uint8) != (observations.dtype == np.uint8):
        raise UserError(
            f"next_observations are {following.dtype}, observations {observations.dtype}"
        )


def fill(
    writer: StoreWriter, columns: Mapping[str, Rows], found: str, name: str, source: dict[str, Any]
) -> EpisodeStore:
    """Write the columns of a file into a store.

    found: the names in the file, for the message; name: the file's name, from which the task is
    derived if possible. UserError for malformed columns.
    """
    check(columns, found)
    actions = columns["actions"].shape
    observation_size = int(np.prod(columns["observations"].shape[1:]))
    facts = task(name, observation_size, actions[1] if len(actions) > 1 else 1)
    for episode in episodes(columns, facts["max_episode_steps"]):
        writer.append(episode)
    return writer.finish(
        envs.canonical(name),
        source,
        transitions_in=len(columns["rewards"]),
        has_timeouts="timeouts" in columns,
        **facts,
    )


def episodes(columns: Mapping[str, Rows], max_episode_steps: int | None) -> Iterator[Episode]:
    """Whole episodes, read in blocks of about BLOCK_ROWS rows."""
    terminals = _flags(columns, "terminals")
    timeouts = _timeouts(columns, terminals, max_episode_steps)
    ended = terminals | timeouts
    if "unfinished" in columns:  # our exports: episodes without an end (see `export.write_d4rl`)
        timeouts &= ~_flags(columns, "unfinished")
    rows = len(terminals)
    ends = np.flatnonzero(ended) + 1
    if len(ends) == 0 or ends[-1] != rows:
        ends = np.append(ends, rows)  # a last episode without an end gets neither flag
    wanted = ("observations", "actions", "rewards", "next_observations")
    first = block_start = 0
    while first < len(ends):
        last = int(np.searchsorted(ends, min(block_start + BLOCK_ROWS, rows)))
        block_end = int(ends[last])
        block = {name: columns[name][block_start:block_end] for name in wanted if name in columns}
        starts = [block_start, *map(int, ends[first:last])]
        for start, end in zip(starts, map(int, ends[first : last + 1]), strict=True):
            here = slice(start - block_start, end - block_start)
            flags = bool(terminals[end - 1]), bool(timeouts[end - 1])
            yield _episode({name: array[here] for name, array in block.items()}, flags)
        first, block_start = last + 1, block_end


def _episode(rows: dict[str, np.ndarray], flags: tuple[bool, bool]) -> Episode:
    observations = rows["observations"]
    if "next_observations" in rows:
        final = rows["next_observations"][-1:].astype(observations.dtype)
        observations = np.concatenate([observations, final])
    return Episode(observations, rows["actions"], rows["rewards"].reshape(-1), *flags)


def _flags(columns: Mapping[str, Rows], name: str) -> np.ndarray:
    values = columns[name][:].reshape(-1)
    if not np.isin(values, (0, 1)).all():
        raise UserError(f"{name} holds other values than 0 and 1")
    return values.astype(bool)


def _timeouts(
    columns: Mapping[str, Rows], terminals: np.ndarray, max_episode_steps: int | None
) -> np.ndarray:
    """The file's own timeouts; without any, the steps at the task's limit."""
    if "timeouts" in columns:
        return _flags(columns, "timeouts") & ~terminals
    timeouts = np.zeros_like(terminals)
    if max_episode_steps is not None:
        start = 0
        for end in [*(np.flatnonzero(terminals) + 1), len(terminals)]:
            timeouts[start + max_episode_steps - 1 : end : max_episode_steps] = True
            start = end
    return timeouts & ~terminals
