"""Names under which files keep the columns of steps, and the ends that their flags mean.

| role | names | meaning |
|---|---|---|
| terminals | `terminals`, `terminated`, `terminations`, `is_terminal` | the environment ended it |
| timeouts | `timeouts`, `truncations`, `truncated` | a time limit ended it |
| ends | `dones`, `episode_terminals` (d3rlpy 1), `is_last` | it ended, in either way |
| starts | `is_first`, `episode_starts` | the row begins an episode |

An end that is no terminal, where a file has terminals, is a time-out. An end that is no time-out,
where it has time-outs and no terminals, is a terminal. Where only ends are known, an episode as
long as the task's step limit timed out, and any other terminated. Where only starts are known,
episodes are told apart and have no end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from decision_seq.types import UserError

# Role -> its names, the usual one first; a singular is a name too.
NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("observations", "obs", "observation", "states", "state"),
    "actions": ("actions", "action", "acts"),
    "rewards": ("rewards", "reward", "rews"),
    "next_observations": (
        "next_observations",
        "next_obs",
        "next_observation",
        "next_states",
        "next_state",
    ),
    "terminals": ("terminals", "terminal", "terminated", "terminations", "is_terminal"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncated"),
    "ends": ("dones", "done", "episode_terminals", "is_last"),
    "starts": ("is_first", "episode_starts"),
}
FLAGS = ("terminals", "timeouts", "ends", "starts")
DATA = ("observations", "actions", "rewards")
ROLE_OF = {name: role for role, names in NAMES.items() for name in names}


def roles(found: Iterable[str]) -> dict[str, list[str]]:
    """Role -> the names of its columns among those found.

    A role of data has one, the most usual; a role of flags has all.
    """
    there = set(found)
    given = {role: [name for name in names if name in there] for role, names in NAMES.items()}
    return {role: names if role in FLAGS else names[:1] for role, names in given.items() if names}


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a message, sorted."""
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(map(shown, ordered[:most])) + more) or "nothing"


def shown(name: str, most: int = 40) -> str:
    """A name from a file for a message: short, with control characters as escapes."""
    return name[:most] if name[:most].isprintable() else ascii(name[:most])[1:-1]


def unread_note(names: Iterable[str]) -> str | None:
    """The note on columns that are not read; None without any."""
    names = list(names)
    return f"columns not read: {listed(names)}" if names else None


def missing(given: Mapping[str, object]) -> str | None:
    """The usual name of the first column that is needed and not given."""
    for role in DATA:
        if role not in given:
            return role
    told = ("terminals", "ends", "starts")  # time-outs alone would join what terminals divide
    return None if any(role in given for role in told) else "terminals"


def flags(values: np.ndarray, name: str) -> np.ndarray:
    """A column of flags as [N] bool; UserError unless it holds 0 and 1 only."""
    values = np.asarray(values).reshape(-1)
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise UserError(f"{name} holds other values than 0 and 1")
    return values.astype(bool)


def merged(columns: Mapping[str, np.ndarray], role: str) -> np.ndarray | None:
    """The flags of a role, [N] bool; None without any column.

    columns: the role's columns by name. Two columns of terminals, or of time-outs, must agree;
    several columns of ends count together.
    """
    names = [name for name in NAMES[role] if name in columns]
    if not names:
        return None
    arrays = [flags(columns[name], name) for name in names]
    if role in ("ends", "starts"):
        return np.logical_or.reduce(arrays)
    for name, other in zip(names[1:], arrays[1:], strict=True):
        if not np.array_equal(arrays[0], other):
            raise UserError(f"{names[0]} and {name} differ, and mean the same; leave one out")
    return arrays[0]


@dataclass(frozen=True)
class Ends:
    """The rows of a file that end an episode, and how."""

    ended: np.ndarray
    """[N] bool: the row is its episode's last."""
    terminals: np.ndarray
    """[N] bool: the environment ended the episode at the row."""
    timeouts: np.ndarray
    """[N] bool: a time limit ended it there."""
    exact: bool
    """Whether the file tells terminals from time-outs."""


def ends(columns: Mapping[str, np.ndarray], limit: int | None) -> Ends:
    """The ends that columns of flags mean, see the module.

    columns: all of the file's columns of flags, by name; limit: the task's time limit in steps.
    """
    terminals, timeouts, marked, starts = (merged(columns, role) for role in FLAGS)
    first = next(value for value in (terminals, timeouts, marked, starts) if value is not None)
    none = np.zeros(len(first), bool)
    begun = none.copy()
    if starts is not None:
        begun[:-1] = starts[1:]
    other = begun if marked is None else marked | begun
    if terminals is None and timeouts is None:
        if marked is None:  # episodes are told apart; how they end is not known
            return Ends(begun, none, none, False)
        late = marked & _at_limit(marked, limit)
        return Ends(marked | begun, marked & ~late, late, False)
    if terminals is None:
        assert timeouts is not None
        known = timeouts | (none if marked is None else marked)
        return Ends(known | begun, known & ~timeouts, timeouts, True)
    if timeouts is None and marked is None and starts is None:
        timeouts = _steps_at_limit(terminals, limit) & ~terminals
        return Ends(terminals | timeouts, terminals, timeouts, False)
    late = ((none if timeouts is None else timeouts) | other) & ~terminals
    return Ends(terminals | late, terminals, late, True)


def last_step(
    columns: Mapping[str, np.ndarray], steps: int, limit: int | None
) -> tuple[bool, bool, bool]:
    """Whether one trajectory terminated, whether it timed out, and whether the file says which.

    columns: its flags by name, one a step or one for the whole trajectory. UserError where one is
    set before the last step.
    """
    given = {name: _of_steps(values, name, steps) for name, values in columns.items()}
    if steps == 0:
        return False, False, False
    found = ends(given, None)
    terminated, timed_out = bool(found.terminals[-1]), bool(found.timeouts[-1])
    if not found.exact and steps == limit and not (terminated and "ends" not in roles(given)):
        terminated, timed_out = False, True
    return terminated, timed_out, found.exact


def _of_steps(values: np.ndarray, name: str, steps: int) -> np.ndarray:
    """Flags [T] of a trajectory of T steps."""
    values = flags(values, name)
    if len(values) == 1 and steps > 1:
        values = np.concatenate([np.zeros(steps - 1, bool), values])
    if len(values) != steps:
        raise UserError(f"{len(values)} {name} of {steps} rewards do not belong together")
    early = np.flatnonzero(values[1:] if ROLE_OF[name] == "starts" else values[:-1])
    if len(early):
        raise UserError(
            f"{name} is set at step {early[0]} of {steps}, before its last step; split it there,"
            " for one trajectory ends once"
        )
    return values


def _at_limit(ended: np.ndarray, limit: int | None) -> np.ndarray:
    """The ends of episodes that are as long as the limit."""
    found = np.zeros_like(ended)
    if limit is not None:
        last = np.flatnonzero(ended)
        lengths = np.diff(last, prepend=-1)
        found[last[lengths == limit]] = True
    return found


def _steps_at_limit(terminals: np.ndarray, limit: int | None) -> np.ndarray:
    """The steps at multiples of the limit after each terminal."""
    found = np.zeros_like(terminals)
    if limit is not None:
        start = 0
        for end in [*(np.flatnonzero(terminals) + 1), len(terminals)]:
            found[start + limit - 1 : end : limit] = True
            start = end
    return found
