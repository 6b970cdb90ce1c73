"""The flat layout of D4RL: one row a transition, episodes end to end.

The columns are `observations`, `actions`, `rewards`, `terminals`, and in newer files `timeouts` and
`next_observations`. Real files vary, and these variants are accepted: other names of the columns
(`step_columns`), flags stored as floats, rewards of shape (N, 1), float64 throughout, other forms
of actions (`action_forms`), no `timeouts` (an episode then ends at its terminal or at the task's
step limit), and a last episode without an end. No transition is dropped.

In two layouts the last row of an episode is no transition but its final observation: OGBench's
compact one, which marks these rows by 0 in `valids`, and RLDS, where a file has `is_last` and
`is_terminal`. OGBench's own files mark them by `terminals`, which is D4RL's name for something
else. Such a file is refused where its names say that it is OGBench's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from decision_seq import envs
from decision_seq.datasets import action_forms, other_layouts, step_columns
from decision_seq.datasets.step_columns import Ends
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.task_entries import task, task_note
from decision_seq.types import Episode, UserError

# Columns with a meaning of their own beside the roles of `step_columns`.
UNFINISHED, VALIDS = "unfinished", "valids"
KNOWN = (*step_columns.ROLE_OF, UNFINISHED, VALIDS)
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


def check(columns: Mapping[str, Rows], found: Sequence[str]) -> dict[str, list[str]]:
    """The roles of the columns; UserError unless they exist, are numeric and have one length.

    found: the names in the file, for the message.
    """
    roles = step_columns.roles(columns)
    missing = step_columns.missing(roles)
    if missing:
        other = other_layouts.way_out(found)
        if other:
            raise UserError(other)
        hint = "is it in D4RL's layout?"
        if missing == "rewards" and "observations" in roles:
            hint = (
                "OGBench's files have no rewards, and one row more an episode: that layout is not"
                " read; write rewards and D4RL's rows first"
            )
        raise UserError(f"it has no {missing!r} (it holds {step_columns.listed(found)}); {hint}")
    for name, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise UserError(f"{name} is {column.dtype}, not numbers")
        if len(column.shape) == 0:
            raise UserError(f"{name} is a single number; one row a transition is needed")
    rows = {name: column.shape[0] for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"columns differ in length ({listed}); fetch it again")
    _check_shapes(columns, roles)
    return roles


def _check_shapes(columns: Mapping[str, Rows], roles: Mapping[str, list[str]]) -> None:
    """Raise UserError unless each column has the shape of its role."""
    count = len(columns[roles["rewards"][0]])
    if count == 0:
        raise UserError("it holds no transition")
    single = [name for role in ("rewards", *step_columns.FLAGS) for name in roles.get(role, [])]
    for name in (*single, UNFINISHED, VALIDS):
        if name in columns and int(np.prod(columns[name].shape)) != count:
            raise UserError(f"{name} has shape {columns[name].shape}; one a row is needed")
    (seen,), (acted,) = roles["observations"], roles["actions"]
    observations, actions = columns[seen], columns[acted]
    if len(observations.shape) < 2 or 0 in observations.shape:
        raise UserError(f"{seen} has shape {observations.shape}; rows of numbers are needed")
    if len(actions.shape) > 2 or 0 in actions.shape:
        raise UserError(f"{acted} has shape {actions.shape}; rows of numbers are needed")
    for name in roles.get("next_observations", []):
        following = columns[name]
        if following.shape != observations.shape:
            raise UserError(f"{name} has shape {following.shape}, {seen} {observations.shape}")
        if (following.dtype == np.uint8) != (observations.dtype == np.uint8):
            raise UserError(f"{name} are {following.dtype}, {seen} {observations.dtype}")


def fill(
    writer: StoreWriter,
    columns: Mapping[str, Rows],
    found: Sequence[str],
    others: Sequence[str],
    name: str,
    source: dict[str, Any],
) -> EpisodeStore:
    """Write the columns of a file into a store.

    columns: those of the file's columns that are `KNOWN`; found: all names in the file, for the
    message; others: its further columns of steps; name: the file's name, from which the task is
    derived if possible. UserError for malformed columns.
    """
    roles = check(columns, found)
    _refuse_ogbench(columns, others, name)
    data = {role: columns[names[0]] for role, names in roles.items() if role in ROLES_OF_DATA}
    form = action_forms.form_of(
        data["actions"][:1], lambda: _blocks(again(columns[roles["actions"][0]]))
    )
    data["actions"] = again(data["actions"])
    seen, acted = int(np.prod(data["observations"].shape[1:])), data["actions"].shape
    sizes = seen, acted[1] if len(acted) > 1 else 1
    facts = task(name, *sizes)
    chosen = {key for names in roles.values() for key in names}
    unread = {*others, *columns} - chosen - {UNFINISHED, VALIDS}
    notes = [task_note(name, *sizes), form.note, step_columns.unread_note(unread)]
    ends = _ends(columns, roles, facts["max_episode_steps"])
    for episode in episodes(data, ends, form):
        writer.append(episode)
    return writer.finish(
        envs.canonical(name),
        {**source, "notes": [line for line in (*notes, ends.note) if line]},
        transitions_in=ends.transitions,
        has_timeouts=ends.exact,
        **facts,
    )


ROLES_OF_DATA = (*step_columns.DATA, "next_observations")


def again(column: Rows) -> Rows:
    """The column from its first row on; a streamed one is opened again."""
    reopen = getattr(column, "again", None)
    return column if reopen is None else reopen()


def _blocks(column: Rows) -> Iterator[np.ndarray]:
    return (column[start : start + BLOCK_ROWS] for start in range(0, column.shape[0], BLOCK_ROWS))


# The names of OGBench's datasets, and columns that its files have and D4RL's have not.
OGBENCH = re.compile(
    r"(visual-)?((pointmaze|antmaze|humanoidmaze|antsoccer)-.*(navigate|stitch|explore)"
    r"|(cube|scene|puzzle|powderworld)-.*(play|noisy))"
)
OGBENCH_COLUMNS = {"qpos", "qvel", "button_states"}


def _refuse_ogbench(columns: Mapping[str, Rows], others: Sequence[str], name: str) -> None:
    """Raise UserError for OGBench's rows, whose last of an episode holds no action."""
    told_apart = {VALIDS, "timeouts", *step_columns.NAMES["next_observations"]} & {*columns}
    named = OGBENCH.match(envs.canonical(name)) or OGBENCH_COLUMNS & {*others}
    if named and not told_apart:
        raise UserError(
            "it looks like OGBench's, where the last row of an episode holds only its final"
            " observation: mark these rows by 0 in a column valids; or, if each row is a"
            " transition, add a column timeouts"
        )


@dataclass(frozen=True)
class _Rows:
    """How the rows of a file divide into episodes."""

    ends: Ends
    stop: np.ndarray  # [E] the row after each episode's last
    closing: bool  # whether the last row of each episode is only its final observation
    note: str

    @property
    def transitions(self) -> int:
        """Number of transitions in the file."""
        return int(self.stop[-1]) - (len(self.stop) if self.closing else 0)

    @property
    def exact(self) -> bool:
        """Whether the file tells terminals from time-outs."""
        return self.ends.exact


def _ends(columns: Mapping[str, Rows], roles: Mapping[str, list[str]], limit: int | None) -> _Rows:
    names = [name for role in step_columns.FLAGS for name in roles.get(role, [])]
    found = {name: columns[name][:] for name in names}
    rlds = {"is_last", "is_terminal"} <= found.keys()
    ends = step_columns.ends(found, None if rlds else limit)
    note = ""
    if VALIDS in columns:  # OGBench's episodes end by its own time limit
        last = ~step_columns.flags(columns[VALIDS][:], VALIDS)
        ends = Ends(last, np.zeros_like(last), last, True)
        note = "rows of 0 in valids are read as final observations"
    elif rlds:
        note = "rows of is_last are read as final observations, as in RLDS"
    elif not ends.ended.any():
        note = NO_END
    timeouts = ends.timeouts
    if UNFINISHED in columns:  # our exports: episodes without an end (see `export.write_d4rl`)
        timeouts = timeouts & ~step_columns.flags(columns[UNFINISHED][:], UNFINISHED)
    rows = len(ends.ended)
    stop = np.flatnonzero(ends.ended) + 1
    if len(stop) == 0 or stop[-1] != rows:
        stop = np.append(stop, rows)  # a last episode without an end gets neither flag
    closing = rlds or VALIDS in columns
    if closing and (not ends.ended[-1] or np.diff(stop, prepend=0).min() < 2):
        raise UserError("an episode has no row of its final observation after its transitions")
    return _Rows(Ends(ends.ended, ends.terminals, timeouts, ends.exact), stop, closing, note)


NO_END = (
    "no row ends an episode, so all rows are read as one episode; where there are several, mark"
    " their ends in a column terminals or timeouts"
)


def episodes(data: Mapping[str, Rows], rows: _Rows, form: action_forms.Form) -> Iterator[Episode]:
    """Whole episodes, read in blocks of about BLOCK_ROWS rows; data: columns by role."""
    stops, total = rows.stop, int(rows.stop[-1])
    first = block_start = 0
    while first < len(stops):
        last = int(np.searchsorted(stops, min(block_start + BLOCK_ROWS, total)))
        block_end = int(stops[last])
        block = {name: column[block_start:block_end] for name, column in data.items()}
        block["actions"] = form.apply(block["actions"])
        starts = [block_start, *map(int, stops[first:last])]
        for start, end in zip(starts, map(int, stops[first : last + 1]), strict=True):
            here = slice(start - block_start, end - block_start)
            flags = bool(rows.ends.terminals[end - 1]), bool(rows.ends.timeouts[end - 1])
            part = {name: array[here] for name, array in block.items()}
            yield _closed(part, flags) if rows.closing else _episode(part, flags)
        first, block_start = last + 1, block_end


def _episode(rows: dict[str, np.ndarray], flags: tuple[bool, bool]) -> Episode:
    observations = rows["observations"]
    if "next_observations" in rows:
        final = rows["next_observations"][-1:].astype(observations.dtype)
        observations = np.concatenate([observations, final])
    return Episode(observations, rows["actions"], rows["rewards"].reshape(-1), *flags)


def _closed(rows: dict[str, np.ndarray], flags: tuple[bool, bool]) -> Episode:
    """An episode whose last row holds only the final observation."""
    rewards = rows["rewards"].reshape(-1)
    return Episode(rows["observations"], rows["actions"][:-1], rewards[:-1], *flags)
