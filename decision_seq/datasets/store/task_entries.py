"""The task entries of a store's header, found by a dataset's name and sizes."""

from __future__ import annotations

from typing import Any

from decision_seq import envs


def task(name: str, observation_size: int, action_size: int) -> dict[str, Any]:
    """The task's entries of a store's header: found by the name where the sizes agree with it.

    Otherwise unknown: sizes alone never name a task.
    """
    found = envs.facts_by_name(name)
    if found is not None and found[1].sizes not in (None, (observation_size, action_size)):
        found = None
    family, facts = found or (None, None)
    return {
        "env_id": facts.env_id if facts else None,
        "family": family,
        "max_episode_steps": facts.max_episode_steps if facts else None,
    }
