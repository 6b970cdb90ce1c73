"""Environments that replace D4RL's for tasks beyond locomotion: `d4rl/antmaze-umaze-v0` and so on.

They have the names of the families in `FACTS`, which also holds their time limits and their
differences from D4RL's own; the version at the end of the name is ours. gymnasium-robotics
simulates them and is imported when one is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from decision_seq.envs.facts import FACTS, NAMESPACE

# The goal's cell as (x, y) in D4RL's frame.
_POINT_GOALS = {"open": (2, 3), "umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
_ANT_GOALS = {"umaze": (1, 3), "medium": (6, 6), "large": (9, 7)}


def _entry(family: str) -> tuple[str, dict[str, Any]]:
    """The class that makes a family's environment, and its keyword arguments."""
    task, _, layout = family.partition("-")
    if task == "antmaze":
        return "mazes:AntMaze", {"layout": layout, "goal": _ANT_GOALS[layout]}
    if task == "maze2d":
        layout, _, dense = layout.partition("-")
        goal = _POINT_GOALS[layout]
        return "mazes:PointMaze", {"layout": layout, "goal": goal, "dense": dense == "dense"}
    return "adroit:Hand", {"task": task}


def register() -> None:
    """Register the environments with Gymnasium."""
    for family, facts in FACTS.items():
        if facts.env_id and facts.env_id.startswith(NAMESPACE):
            where, options = _entry(family)
            gymnasium.register(
                facts.env_id,
                f"decision_seq.envs.{where}",
                max_episode_steps=facts.max_episode_steps,
                kwargs=options,
            )


register()
