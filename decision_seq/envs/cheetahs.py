"""HalfCheetah environments with other rewards: to run at a given velocity, and to flip backwards.

The tasks are those of the Generalized Decision Transformer (Furuta et al., 2022;
frt03/generalized_dt), on Gymnasium's HalfCheetah-v4.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v4 import HalfCheetahEnv

VELOCITIES = tuple(tenths / 10 for tenths in range(31))  # of the registered ids


class CheetahVelocity(HalfCheetahEnv):
    """HalfCheetah that has to run at a velocity: reward -|v_x - velocity| - 0.05 |a|^2.

    Observations [20]: HalfCheetah's, then the torso's position (3). The registered time limit is
    200 steps. `CheetahVel0.5-v0` has the velocity 0.5, `CheetahVel-v0?{"velocity": 0.55}` any.
    """

    def __init__(self, velocity: float = 1.0, **options: Any) -> None:
        self.velocity = velocity  # set before `super().__init__`, which makes an observation
        super().__init__(ctrl_cost_weight=0.05, **options)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (20,), np.float64)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.float64, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        missed = abs(info["x_velocity"] - self.velocity)
        return observation, info["reward_ctrl"] - missed, terminated, truncated, info

    def _get_obs(self) -> np.ndarray:
        return np.concatenate([super()._get_obs(), self.data.body("torso").xpos])


class BackflipCheetah(HalfCheetahEnv):
    """HalfCheetah that has to move and jump: reward |v_x| - 0.1 |a|^2 + |dz| / dt, z its height.

    Observations [17] are HalfCheetah's; the registered time limit is 1000 steps.
    """

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.float64, bool, bool, dict[str, Any]]:
        height = self.data.qpos[1]
        observation, _, terminated, truncated, info = super().step(action)
        climbed = abs(self.data.qpos[1] - height) / self.dt
        reward = abs(info["x_velocity"]) + info["reward_ctrl"] + climbed
        return observation, reward, terminated, truncated, info


def register() -> None:
    """Register the environments with Gymnasium."""
    where = "decision_seq.envs.cheetahs"
    gymnasium.register("CheetahVel-v0", f"{where}:CheetahVelocity", max_episode_steps=200)
    for velocity in VELOCITIES:
        gymnasium.register(
            f"CheetahVel{velocity}-v0",
            f"{where}:CheetahVelocity",
            max_episode_steps=200,
            kwargs={"velocity": velocity},
        )
    gymnasium.register("BackflipCheetah-v0", f"{where}:BackflipCheetah", max_episode_steps=1000)


register()
