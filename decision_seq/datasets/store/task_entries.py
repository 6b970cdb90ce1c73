"""The task entries of a store's header, found by a dataset's name and sizes."""

from __future__ import annotations

import re
import shlex
from typing import Any

from decision_seq import envs
from decision_seq.datasets.d4rl.names import published

# Collections of this package, whose names are not D4RL's.
BUNDLED = re.compile(r"reacher2d-(random|medium|expert)|key-to-door-\d+k")


Found = tuple[str, envs.EnvironmentFacts]  # a family and its facts


def task(name: str, observation_size: int, action_size: int) -> dict[str, Any]:
    """The task's entries of a store's header.

    A task is taken from a name that begins with the whole name of a dataset of D4RL's, such as
    `hopper-medium`, where the sizes agree with it. Sizes alone never name a task.
    """
    found = _fitting(name, observation_size, action_size)
    family, facts = found if found and names_dataset(name) else (None, None)
    return {
        "env_id": facts.env_id if facts else None,
        "family": family,
        "max_episode_steps": facts.max_episode_steps if facts else None,
    }


def task_note(name: str, observation_size: int, action_size: int) -> str | None:
    """A note on how `task` knows the task, or on the one that a bare name, `hopper`, suggests.

    None where the name says nothing.
    """
    found = _fitting(name, observation_size, action_size)
    if found is None or found[1].env_id is None:
        return None
    family, env_id = found[0], found[1].env_id
    if names_dataset(name):
        return f"taken for {env_id} by its name; another by --evaluation.env_id"
    return (
        f"its name suggests {family}, which is not assumed; if it is, give"
        f" --evaluation.env_id {shlex.quote(env_id)}"
    )


def _fitting(name: str, observation_size: int, action_size: int) -> Found | None:
    found = envs.facts_by_name(name)
    fits = found is not None and found[1].sizes in (None, (observation_size, action_size))
    return found if fits else None


def names_dataset(name: str) -> bool:
    """Whether a name begins with the whole name of a dataset of D4RL's or a bundled one."""
    name = envs.canonical(name)
    bare = {full.rpartition("-v")[0] for full in published()}
    return BUNDLED.match(name) is not None or any(
        name == known or name.startswith(known + "-") for known in bare
    )
