"""A dataset of one's own from episodes in Python, written as a store in bounded memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.datasets import action_forms, step_columns
from decision_seq.datasets.files.trajectories import episode_of
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.envs import trust
from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.making import spaces
from decision_seq.envs.observations import Vectors, numbers
from decision_seq.envs.running import time_limit
from decision_seq.machine.files import as_path
from decision_seq.types import Episode, Reporter, UserError
from decision_seq.user_choices import Named, remember


def write_dataset(
    path: Path | str,
    episodes: Iterable[Episode | Mapping[str, Any]],
    *,
    env_id: str | None = None,
    max_episode_steps: int | None = None,
    reference_scores: Sequence[float] | None = None,
    replace: bool = False,
    reporter: Reporter | None = None,
) -> EpisodeStore:
    """Write episodes into a new folder -> the open dataset, whose name is the folder's path.

    episodes: `Episode`s, or mappings with `observations` [T, ...] or [T + 1, ...], `actions` [T, A]
    floats or [T] whole numbers, `rewards` [T], and one of `terminated`, `truncated`, `dones`: a
    flag for the whole episode or [T] of them. They are written one by one, so a generator may hold
    any number. The other names of `datasets.step_columns` are taken too.

    env_id: the environment, as Gymnasium makes it (`module:Env-v0` for your own). Its spaces then
    convert observations of a Dict, by entry [T, ...] or as a list of steps, and give the range of
    the actions; it is made once.
    max_episode_steps: the time limit; by default the environment's. reference_scores: the returns
    (random, expert) that normalise scores to 0 and 100. replace: whether a dataset at `path` is
    replaced; it stays until the new one is complete.

    UserError for episodes that do not fit together, or for a path that holds a dataset. Then, and
    where the iterable itself fails, `path` stays as it was.
    """
    folder = as_path(path, "the dataset")
    name = folder.name
    _check_arguments(episodes, max_episode_steps, reference_scores)
    if not replace and (folder / "header.json").exists():
        raise UserError(f"{path} holds a dataset; name another path, or give replace=True")
    task = _Task.of(env_id, max_episode_steps)
    form: action_forms.Form | None = None
    told, transitions = True, 0
    with StoreWriter(folder) as writer:
        for index, given in enumerate(episodes):
            episode, exact = task.episode(given, f"episode {index}")
            form = form or action_forms.form_of(episode.actions, lambda: ())
            writer.append(dataclasses.replace(episode, actions=form.apply(episode.actions)))
            told, transitions = told and exact, transitions + len(episode)
        if transitions == 0:
            raise UserError(f"{path}: no episodes were given")
        store = writer.finish(
            name,
            {"kind": "written", "description": f"episodes written to {name}"},
            env_id=env_id,
            family=None,
            max_episode_steps=task.limit,
            transitions_in=transitions,
            has_timeouts=told,
            reference_scores=None if reference_scores is None else [*map(float, reference_scores)],
            **({} if task.actions is None else task.actions.header_entries),
        )
    if env_id is not None:
        remember(store.path, Named(env_id), reporter or Reporter())
    return store


def _check_arguments(episodes: Any, limit: Any, reference_scores: Any) -> None:
    """Raise UserError for arguments of the wrong type."""
    if isinstance(episodes, Mapping | Episode | str) or not isinstance(episodes, Iterable):
        raise UserError(
            f"the episodes are of type {type(episodes).__name__}; give a list or a generator of"
            " episodes"
        )
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UserError(f"max_episode_steps {limit!r} is no whole number of at least 1")
    if reference_scores is None:
        return
    pair = isinstance(reference_scores, Sequence) and len(reference_scores) == 2
    if not pair or not all(isinstance(score, Real) for score in reference_scores):
        raise UserError(f"reference_scores {reference_scores!r}: give two returns (random, expert)")


@dataclass(frozen=True)
class _Task:
    """What is known of the episodes' environment."""

    vectors: Vectors | None
    """Layout of its observations; None without an environment."""
    actions: ActionSpace | None
    """Its actions; None without an environment."""
    limit: int | None
    """Its time limit in steps."""

    @classmethod
    def of(cls, env_id: str | None, limit: int | None) -> _Task:
        """The task of an environment that the user named; UserError if it cannot be made."""
        if env_id is None:
            return cls(None, None, limit)
        trust(env_id)
        made = spaces(env_id)
        actions = ActionSpace.of(made.action_space, env_id)
        return cls(Vectors(made.observation_space), actions, time_limit(made, limit))

    def episode(self, given: Episode | Mapping[str, Any], name: str) -> tuple[Episode, bool]:
        """An episode as a store holds it, and whether its kind of end is known."""
        if isinstance(given, Episode):
            seen = self._observations(given.observations, f"{name}: observations")
            acted = self._actions(given.actions, f"{name}: actions")
            return dataclasses.replace(given, observations=seen, actions=acted), True
        if not isinstance(given, Mapping):
            raise UserError(f"{name} is a {type(given).__name__}; give a mapping or an Episode")
        roles = step_columns.roles(given)
        missing = [role for role in step_columns.DATA if role not in roles]
        if not any(role in roles for role in step_columns.FLAGS):
            missing.append("terminated' or 'truncated")
        if missing:
            held = step_columns.listed(map(str, given))
            raise UserError(f"{name} has no '{missing[0]}' (it holds {held})")
        arrays: dict[str, np.ndarray] = {}
        for role, names in roles.items():
            for key in names:
                values, what = given[key], f"{name}: {key}"
                if role in step_columns.FLAGS:
                    arrays[key] = np.atleast_1d(values)
                elif role == "actions":
                    arrays[role] = self._actions(values, what)
                elif role == "rewards":
                    arrays[role] = numbers(values, what)
                else:
                    arrays[role] = self._observations(values, what)
        return episode_of(arrays, name, self.limit)

    def _observations(self, values: Any, name: str) -> np.ndarray:
        a_step_each = isinstance(values, list) and bool(values) and isinstance(values[0], Mapping)
        if self.vectors is not None:
            if a_step_each:
                return np.stack([self.vectors.row(step) for step in values])
            return self.vectors.rows(values, name)
        if a_step_each or isinstance(values, Mapping):
            raise UserError(f"{name} are mappings; name env_id, whose space gives their order")
        array = numbers(values, name)
        return array.reshape(len(array), -1)

    def _actions(self, values: Any, name: str) -> np.ndarray:
        array = numbers(values, name)
        return array if self.actions is None else self.actions.from_data(array, name)
