"""A task whose actions leave [-1, 1]: the valve of a tank, in percent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

TANK = "tests.tank:Tank-v0"


class Tank(gymnasium.Env):
    """A tank's level has to reach a goal. Observations [2]: level and goal; reward:
    -|level - goal| / 100; actions: the valve, 0 to 100, at 50 the level stays."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(0, 100, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.level, self.goal, self.steps = 50.0, float(self.np_random.uniform(20, 80)), 0
        return np.array([self.level, self.goal], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.level += float(np.clip(action[0], 0, 100)) / 10 - 5
        self.steps += 1
        observation = np.array([self.level, self.goal], np.float32)
        return observation, -abs(self.level - self.goal) / 100, self.steps == 30, False, {}


def save_episodes(path: Path, count: int, noise: tuple[float, ...] = (30.0, 200.0)) -> None:
    """Write `count` episodes of each noise as an .npz file: a good controller, in percent."""
    env, columns = Tank(), ([], [], [], [])
    for number, scale in enumerate(noise):
        rng = np.random.default_rng(number)
        for episode in range(count):
            seen, ended = env.reset(seed=1000 * number + episode)[0], False
            while not ended:
                valve = 50 + 10 * np.clip(seen[1] - seen[0], -5, 5) + rng.normal(0, scale)
                action = np.clip([valve], 0, 100).astype(np.float32)
                following, reward, ended, *_ = env.step(action)
                for column, value in zip(columns, (seen, action, reward, ended), strict=True):
                    column.append(value)
                seen = following
    names = ("observations", "actions", "rewards", "terminals")
    np.savez(path, **{name: np.array(c) for name, c in zip(names, columns, strict=True)})


gymnasium.register("Tank-v0", Tank)
