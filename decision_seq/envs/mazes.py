"""D4RL's mazes, simulated by gymnasium-robotics, with D4RL's layouts, starts, goals and rewards.

The facts are those of Farama-Foundation/D4RL, d4rl/locomotion (antmaze) and d4rl/pointmaze
(maze2d).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

# "#" is a wall. D4RL's x axis runs down the rows in maze2d and along them in antmaze.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "open": (
        "#######",
        "#     #",
        "#     #",
        "#     #",
        "#######",
    ),
    "umaze": (
        "#####",
        "#   #",
        "### #",
        "#   #",
        "#####",
    ),
    "medium": (
        "########",
        "#  ##  #",
        "#  #   #",
        "##   ###",
        "#  #   #",
        "# #  # #",
        "#   #  #",
        "########",
    ),
    "large": (
        "############",
        "#    #     #",
        "# ## # # # #",
        "#      #   #",
        "# #### ### #",
        "#  # #     #",
        "## # # # ###",
        "#  #   #   #",
        "############",
    ),
}
REACHED = 0.5  # radius of the goal; gymnasium-robotics' own is 0.45


@dataclass(frozen=True)
class Maze:
    """Maze in D4RL's frame: the centre of cell (x, y) is at `scale * ((x, y) - origin)`."""

    walls: np.ndarray
    """[X, Y]: True for a wall."""
    scale: float
    """Width of a cell."""
    origin: tuple[float, float]
    """Cell coordinates of D4RL's origin."""

    @property
    def free(self) -> np.ndarray:
        """[cells, 2]: the free cells, in order."""
        return np.argwhere(~self.walls)

    @property
    def robotics_map(self) -> list[list[int]]:
        """The maze as gymnasium-robotics' map: x along the rows, y upwards from the last row."""
        return np.rot90(self.walls).astype(int).tolist()

    @property
    def offset(self) -> np.ndarray:
        """[2]: D4RL's coordinates minus gymnasium-robotics', whose origin is the maze's centre."""
        return self.scale * ((np.array(self.walls.shape) - 1) / 2 - self.origin)


class MazeTask(gymnasium.Wrapper):
    """gymnasium-robotics maze in D4RL's frame; observations are positions, then velocities.

    body: the simulated body inside `env`; both use the seed given to `reset`.
    """

    def __init__(self, env: Any, body: Any, maze: Maze, goal: tuple[int, int]) -> None:
        super().__init__(env)
        Path(env.tmp_xml_file_path).unlink(missing_ok=True)  # gymnasium-robotics does not remove it
        self.body, self.maze, self.goal_cell = body, maze, goal
        self.goal = np.zeros(2)
        size = body.model.nq + body.model.nv
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A random goal [2], start positions and start velocities, in D4RL's frame."""
        raise NotImplementedError

    def judge(self, distance: float) -> tuple[float, bool]:
        """Reward and termination at a distance from the goal."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.env.reset(seed=seed, options=options)
        self.goal, positions, velocities = self.draw(self.unwrapped.np_random)
        self.place(positions, velocities)
        inner: Any = self.unwrapped
        inner.goal = self.goal - self.maze.offset  # for rendering
        inner.update_target_site_pos()
        return self.observe(), {}

    def place(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Put the body at these positions and velocities, in D4RL's frame."""
        self.body.set_state(self._shifted(positions, -self.maze.offset), velocities)

    def observe(self) -> np.ndarray:
        """The observation, in D4RL's frame."""
        positions = self._shifted(self.body.data.qpos, self.maze.offset)
        return np.concatenate([positions, self.body.data.qvel])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.env.step(action)
        observation = self.observe()
        distance = float(np.linalg.norm(observation[:2] - self.goal))
        reward, terminated = self.judge(distance)
        return observation, reward, terminated, False, {"success": distance <= REACHED}

    @staticmethod
    def _shifted(positions: np.ndarray, offset: np.ndarray) -> np.ndarray:
        return np.concatenate([positions[:2] + offset, positions[2:]])


class PointMaze(MazeTask):
    """maze2d: a ball starts in a random free cell; the goal is fixed and does not end the episode.

    Reward 1 within 0.5 of the goal, else 0; if `dense`, exp(-distance).
    """

    def __init__(self, layout: str, goal: tuple[int, int], dense: bool, **options: Any) -> None:
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

        # The ball's zero position is 0.2 beyond a cell's centre in D4RL's model, as are goals and
        # starts.
        maze = Maze(_walls(layout), 1.0, (0.2, 0.2))
        env = PointMazeEnv(maze_map=maze.robotics_map, **options)
        super().__init__(env, env.point_env, maze, goal)
        self.dense = dense

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start = rng.choice(self.maze.free) + rng.uniform(-0.1, 0.1, 2)
        return np.array(self.goal_cell, np.float64), start, rng.normal(0, 0.1, 2)

    def judge(self, distance: float) -> tuple[float, bool]:
        return float(np.exp(-distance)) if self.dense else float(distance <= REACHED), False


class AntMaze(MazeTask):
    """antmaze: the ant starts in the first cell; at the goal, the reward is 1 and the episode ends.

    The goal is drawn for every episode, as in D4RL's v2.
    """

    def __init__(self, layout: str, goal: tuple[int, int], **options: Any) -> None:
        from gymnasium_robotics.envs.maze.ant_maze_v4 import AntMazeEnv

        maze = Maze(_walls(layout).T, 4.0, (1.0, 1.0))
        env = AntMazeEnv(maze_map=maze.robotics_map, **options)
        super().__init__(env, env.ant_env, maze, goal)
        # Gymnasium's ant is five times as strong and acts twice as often as D4RL's in antmaze.
        model = env.ant_env.model
        model.opt.timestep = 0.02
        model.actuator_gear[:, 0] = 30.0
        model.geom_solimp[:, :3] = 0.8, 0.8, 0.01

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        corner = self.maze.scale * (np.array(self.goal_cell) - self.maze.origin)
        goal = np.maximum(corner + rng.uniform(0, 1, 2) + rng.uniform(0, 0.5, 2), 0)
        model = self.body.model
        positions = model.qpos0 + rng.uniform(-0.1, 0.1, model.nq)
        return goal, positions, rng.normal(0, 0.1, model.nv)

    def judge(self, distance: float) -> tuple[float, bool]:
        return float(distance <= REACHED), distance <= REACHED


def _walls(layout: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in LAYOUTS[layout]])
