"""D4RL's four tasks of the Adroit hand, simulated by gymnasium-robotics.

Rewards and ends are those of Farama-Foundation/D4RL, d4rl/hand_manipulation_suite, because
gymnasium-robotics rewards a hand for distance from door, hammer and ball, and continues an episode
after the pen has fallen.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np

FALLEN = 0.075  # height below which the pen has been dropped


def _pen(observation: np.ndarray, data: Any) -> tuple[float, bool]:
    """Reward and end of `pen`: the pen has to reach the desired position and orientation."""
    distance = np.linalg.norm(observation[39:42])
    similarity = observation[33:36] @ observation[36:39]
    close, fallen = distance < 0.075, observation[26] < FALLEN
    bonus = 10 * (close and similarity > 0.9) + 50 * (close and similarity > 0.95)
    return similarity - distance + bonus - 5 * fallen, bool(fallen)


def _hammer(observation: np.ndarray, data: Any) -> tuple[float, bool]:
    """Reward and end of `hammer`: palm to hammer, hammer to nail, nail to its goal."""
    palm, handle, nail = observation[33:36], observation[36:39], observation[42:45]
    head = data.site("tool").xpos
    left = np.linalg.norm(nail - data.site("nail_goal").xpos)
    cost = 0.1 * np.linalg.norm(palm - handle) + np.linalg.norm(head - nail) + 10 * left
    bonus = 2 * (handle[2] > 0.04 and head[2] > 0.04) + 25 * (left < 0.02) + 75 * (left < 0.01)
    return bonus - cost - 0.01 * np.linalg.norm(data.qvel), False


def _door(observation: np.ndarray, data: Any) -> tuple[float, bool]:
    """Reward and end of `door`: the palm reaches the handle and opens the door."""
    angle, reach = observation[28], np.linalg.norm(observation[35:38])
    cost = 0.1 * reach + 0.1 * (angle - 1.57) ** 2 + 1e-5 * np.sum(data.qvel**2)
    return 2 * (angle > 0.2) + 8 * (angle > 1.0) + 10 * (angle > 1.35) - cost, False


def _relocate(observation: np.ndarray, data: Any) -> tuple[float, bool]:
    """Reward and end of `relocate`: the palm reaches the ball and lifts it to the target."""
    to_ball, to_target, left = np.linalg.norm(observation[30:].reshape(3, 3), axis=1)
    lifted = data.body("Object").xpos[2] > 0.04
    carried = lifted * (1 - 0.5 * to_target - 0.5 * left)
    return carried - 0.1 * to_ball + 10 * (left < 0.1) + 20 * (left < 0.05), False


REWARDS: dict[str, Callable[[np.ndarray, Any], tuple[float, bool]]] = {
    "pen": _pen,
    "hammer": _hammer,
    "door": _door,
    "relocate": _relocate,
}


class Hand(gymnasium.Wrapper):
    """A task of `REWARDS`; the observations are gymnasium-robotics', in D4RL's layout."""

    def __init__(self, task: str, **options: Any) -> None:
        module = import_module(f"gymnasium_robotics.envs.adroit_hand.adroit_{task}")
        super().__init__(getattr(module, f"AdroitHand{task.capitalize()}Env")(**options))
        self.judge = REWARDS[task]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, _, _, truncated, info = self.env.step(action)
        inner: Any = self.unwrapped
        reward, terminated = self.judge(observation, inner.data)
        return observation, float(reward), terminated, truncated, info
