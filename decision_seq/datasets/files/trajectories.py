"""Trajectories in the inert value of a pickle.

| value | read as |
|---|---|
| list, tuple or array of dicts | a trajectory a dict, with one entry of each array a step |
| one dict of arrays | D4RL's flat layout (`d4rl/layout.py`) |
| a dict whose only entry is a list of dicts | that list |

An array may be a list of numbers, of lists or of arrays. The names of the arrays are those of
`step_columns`. Ends may be set at the last step of a trajectory only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decision_seq import envs
from decision_seq.datasets import action_forms, step_columns
from decision_seq.datasets.d4rl import layout
from decision_seq.datasets.files.stand_ins import Array
from decision_seq.datasets.files.values import Values
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.task_entries import task, task_note
from decision_seq.types import Episode, UserError

Arrays = dict[str, np.ndarray]  # a trajectory's arrays by role; flags by name


def write(
    writer: StoreWriter, value: Any, size: int, name: str, source: dict[str, Any]
) -> EpisodeStore:
    """Write a value's trajectories into a store; UserError if it holds none.

    size: bytes of the file; name: its name, from which the task is derived if possible.
    """
    values = Values(size)
    if isinstance(value, dict) and len(value) == 1:
        (only,) = value.values()
        value = only if _listed(only) else value
    if isinstance(value, dict):
        return _flat(writer, value, values, name, source)
    items = _listed(value)
    if not items:
        raise UserError(
            f"it holds no list of trajectories but {_kind(value)}; save a list of dicts of arrays:"
            " observations, actions, rewards, terminals"
        )
    given = [_arrays(item, f"trajectory {i}", values) for i, item in enumerate(items)]
    return _write(writer, given, items, name, source)


def _write(
    writer: StoreWriter,
    given: list[Arrays],
    items: Sequence[dict],
    name: str,
    source: dict[str, Any],
) -> EpisodeStore:
    form = _form(given)
    given = [{**arrays, "actions": form.apply(arrays["actions"])} for arrays in given]
    acted = given[0]["actions"]
    sizes = int(np.prod(given[0]["observations"].shape[1:])), acted.shape[-1]
    facts = task(name, *sizes)
    told = True
    for i, arrays in enumerate(given):
        episode, exact = episode_of(arrays, f"trajectory {i}", facts["max_episode_steps"])
        writer.append(episode)
        told = told and exact
    unread = {key for item in items for key in item if isinstance(key, str)}
    unread -= step_columns.ROLE_OF.keys()
    notes = [task_note(name, *sizes), form.note, step_columns.unread_note(unread)]
    return writer.finish(
        envs.canonical(name),
        {**source, "notes": [line for line in notes if line]},
        transitions_in=sum(len(arrays["rewards"]) for arrays in given),
        has_timeouts=told,
        **facts,
    )


def _form(given: list[Arrays]) -> action_forms.Form:
    """The form of the actions of all trajectories; UserError where their shapes differ."""
    actions = [arrays["actions"] for arrays in given]
    first = actions[0][:1]
    for i, array in enumerate(actions):
        if array.shape[1:] != first.shape[1:]:
            raise UserError(
                f"trajectory {i}: actions of shape {array.shape[1:]} after {first.shape[1:]}"
            )
    kinds = {array.dtype for array in actions}
    whole = all(kind.kind in "iub" for kind in kinds)  # NumPy makes floats of int64 and uint64
    kind = np.dtype(np.int64) if whole else np.result_type(*kinds)
    return action_forms.form_of(first.astype(kind), lambda: iter(actions))


def _flat(
    writer: StoreWriter, value: dict, values: Values, name: str, source: dict[str, Any]
) -> EpisodeStore:
    """Write one dict of columns, a row a transition."""
    names = [key for key in value if isinstance(key, str)]
    columns, others = {}, []
    for key in names:
        wanted = key in layout.KNOWN
        column = values.array(value[key], key) if wanted else None
        if column is not None:
            columns[key] = np.ascontiguousarray(column)
        elif wanted:
            raise UserError(f"{key} is {_kind(value[key])}, not numbers{_hint(value)}")
        elif isinstance(value[key], Array | list):
            others.append(key)
    return layout.fill(writer, columns, names, others, name, source)


def _listed(value: Any) -> Sequence[Any] | None:
    """The items of a list whose first item is a dict; None for other values."""
    items = value.objects if isinstance(value, Array) else value
    if isinstance(items, list | tuple) and items and isinstance(items[0], dict):
        return items
    return None


def _arrays(item: Any, name: str, values: Values) -> Arrays:
    """The arrays of one trajectory."""
    if not isinstance(item, dict):
        raise UserError(f"{name} is {_kind(item)}, not a dict of arrays")
    roles = step_columns.roles(key for key in item if isinstance(key, str))
    arrays: Arrays = {}
    for role, names in roles.items():
        for key in names:
            array = values.array(item[key], f"{name}: {key}")
            if array is None and role in step_columns.FLAGS and isinstance(item[key], bool):
                array = np.array([item[key]])  # of the whole trajectory
            if array is None or array.ndim == 0:
                raise UserError(f"{name} has no array {key!r} but {_kind(item[key])}{_hint(item)}")
            arrays[key if role in step_columns.FLAGS else role] = array
    missing = step_columns.missing(step_columns.roles(arrays))
    if missing:
        held = step_columns.listed(key for key in item if isinstance(key, str))
        flags = "; add one flag a step, True where the environment ended the episode"
        cure = flags if missing in step_columns.FLAGS else ""
        raise UserError(f"{name} has no {missing!r} (it holds {held}){cure}")
    return arrays


def _hint(item: dict) -> str:
    dicts = any(
        isinstance(value, dict) or (isinstance(value, Array) and value.objects is not None)
        for value in item.values()
    )
    if not dicts:
        return ""
    return "; join the parts of a step to one vector, in the order of the environment's space"


def episode_of(arrays: Arrays, name: str, limit: int | None) -> tuple[Episode, bool]:
    """One trajectory as an episode, and whether its kind of end is known."""
    observations, actions, rewards = (arrays[role] for role in step_columns.DATA)
    rewards = rewards.reshape(-1) if rewards.size == len(rewards) else rewards
    following = arrays.get("next_observations")
    if following is not None:
        if following.shape != (len(rewards), *observations.shape[1:]):
            raise UserError(
                f"{name}: next_observations of shape {following.shape} do not belong to"
                f" {len(rewards)} observations of shape {observations.shape[1:]}"
            )
        if len(observations) == len(following) > 0:
            observations = np.concatenate([observations, following[-1:]])
    flags = {key: arrays[key] for key in arrays if step_columns.ROLE_OF[key] in step_columns.FLAGS}
    try:
        *ended, exact = step_columns.last_step(flags, len(rewards), limit)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return Episode(observations, actions, rewards, *ended), exact


def _kind(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, Array):
        return "an array of objects" if value.objects is not None else "an array"
    if isinstance(value, list | tuple):
        inner = f" of {type(value[0]).__name__}s" if value else " of nothing"
        return f"a {type(value).__name__}{inner}"
    if isinstance(value, dict):
        return f"a dict of {step_columns.listed(map(str, value), 5)}"
    return f"a {type(value).__name__}"
