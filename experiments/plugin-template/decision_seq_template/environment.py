"""An environment: a point that is pushed towards the origin."""

import gymnasium
import numpy as np

from decision_seq import register


@register("environment", "TemplatePoint-v0")
class Point(gymnasium.Env):
    """A point in the plane; the reward is the negative distance to the origin."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    max_episode_steps = 20  # it ends its episodes itself

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.step_count = 0
        return self.point, {}

    def step(self, action):
        self.point = (self.point + 0.2 * np.clip(action, -1, 1)).astype(np.float32)
        self.step_count += 1
        distance = float(np.linalg.norm(self.point))
        return self.point, -distance, False, self.step_count >= self.max_episode_steps, {}
