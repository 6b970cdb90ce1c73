"""A dataset of one's own from episodes in Python, written as a store in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.datasets import action_forms, step_columns
from decision_seq.datasets.files.trajectories import episode_of
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.envs import Environments, trust
from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.making import spaces
from decision_seq.envs.observations import Vectors, numbers
from decision_seq.types import Episode, Reporter, UserError
from decision_seq.user_choices import Named, remember


def write_dataset(
    path: Path | str,
    episodes: Iterable[Episode | Mapping[str, Any]],
    *,
    env_id: str | None = None,
    max_episode_steps: int | None = None,
    reference_scores: tuple[float, float] | None = None,
    reporter: Reporter | None = None,
) -> EpisodeStore:
    """Write episodes into a new folder -> the open dataset, whose name is the folder's path.

    episodes: `Episode`s, or mappings with `observations` [T, ...] or [T + 1, ...], `actions` [T, A]
    floats or [T] whole numbers, `rewards` [T], and one of `terminated`, `truncated`, `dones`: a
    flag for the whole episode or [T] of them. They are written one by one, so a generator may hold
    any number. The other names of `datasets.step_columns` are taken too.

    env_id: the environment, as Gymnasium makes it (`module:Env-v0` for your own). Its spaces then
    convert observations of a Dict and give the range of the actions; it is made once.
    max_episode_steps: the time limit; by default the environment's. reference_scores: the returns
    (random, expert) that normalise scores to 0 and 100.

    UserError for episodes that do not fit together; nothing is left at `path` then.
    """
    name = Path(path).name
    task = _Task.of(env_id, max_episode_steps)
    form: action_forms.Form | None = None
    told, transitions = True, 0
    with StoreWriter(Path(path)) as writer:
        for index, given in enumerate(episodes):
            episode, exact = task.episode(given, f"episode {index}")
            form = form or action_forms.form_of(episode.actions, lambda: ())
            writer.append(replace(episode, actions=form.apply(episode.actions)))
            told, transitions = told and exact, transitions + len(episode)
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
        environments = Environments(env_id, 1, step_limit=limit)
        limit = environments.max_episode_steps
        environments.close()
        return cls(
            Vectors(made.observation_space), ActionSpace.of(made.action_space, env_id), limit
        )

    def episode(self, given: Episode | Mapping[str, Any], name: str) -> tuple[Episode, bool]:
        """An episode as a store holds it, and whether its kind of end is known."""
        if isinstance(given, Episode):
            seen = self._observations(given.observations, f"{name}: observations")
            acted = self._actions(given.actions, f"{name}: actions")
            return replace(given, observations=seen, actions=acted), True
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
        if self.vectors is not None:
            return self.vectors.rows(values, name)
        array = numbers(values, name)
        return array.reshape(len(array), -1)

    def _actions(self, values: Any, name: str) -> np.ndarray:
        array = numbers(values, name)
        return array if self.actions is None else self.actions.from_data(array, name)
