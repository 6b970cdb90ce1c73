"""Reacher2d: hold the tip of a two-link arm at a fixed random target.

The environment of the Decision Transformer paper's fourth task (kzl/decision-transformer,
gym/decision_transformer/envs/reacher_2d.py), whose datasets were never released. It is rebuilt from
the published facts; the links' thickness and density, and so their inertia, are our own choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

FRAME_SKIP = 15  # of 0.01 s: a step lasts 0.15 s
REACH = 0.1  # a step is rewarded if |dx| + |dy| is less
TARGET_RADIUS = (0.5, 1.0)


class Reacher2d(MujocoEnv):
    """Two-link arm that has to reach a target.

    Observations [12]: sin(q) (2), cos(q) (2), 0.15 q' (2), tip, target, tip - target (2 each).
    Actions [2]: torques in [-1, 1]. Reward 1 in every step that ends with the tip at the target,
    else 0. Never terminates; the registered time limit is 100 steps.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's convention)
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 7,
    }

    def __init__(self, **options: Any) -> None:
        space = gymnasium.spaces.Box(-np.inf, np.inf, (12,), np.float64)
        model = Path(__file__).with_name("reacher2d.xml")
        super().__init__(str(model), FRAME_SKIP, observation_space=space, **options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.float64, bool, bool, dict[str, Any]]:
        self.do_simulation(action, self.frame_skip)
        mujoco.mj_kinematics(self.model, self.data)  # the step's positions lag by one substep
        observation = self._observe()
        reward = np.float64(np.abs(observation[10:]).sum() < REACH)
        if self.render_mode == "human":
            self.render()
        return observation, reward, False, False, {}

    def reset_model(self) -> np.ndarray:
        """Draw the joints uniformly in [-2, 2], at rest, and the target uniformly in its ring."""
        low, high = TARGET_RADIUS
        target = np.zeros(2)
        while not low <= np.linalg.norm(target) <= high:
            target = self.np_random.uniform(-1.5, 1.5, 2)
        self.data.mocap_pos[0, :2] = target
        self.set_state(self.np_random.uniform(-2, 2, 2), np.zeros(2))
        return self._observe()

    def _observe(self) -> np.ndarray:
        angles = self.data.qpos
        tip = self.data.body("fingertip").xpos[:2]
        target = self.data.mocap_pos[0, :2]
        speeds = self.dt * self.data.qvel
        return np.concatenate([np.sin(angles), np.cos(angles), speeds, tip, target, tip - target])


gymnasium.register("Reacher2d-v0", "decision_seq.envs.reacher2d:Reacher2d", max_episode_steps=100)
