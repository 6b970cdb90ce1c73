"""Test of goal-reaching with the Trajectory Transformer."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from decision_seq import checkpoint
from decision_seq.cli import main
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.envs import FACTS, Environments, make
from decision_seq.evaluation.rollout import rollout_returns
from decision_seq.sequences.conditioning.outcome import GoalOutcome
from decision_seq.types import Episode

MAZE = FACTS["maze2d-umaze"].env_id or ""
# The cells of the maze's corridor, from one end to the other.
CORRIDOR = np.array([(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)], float)
NEAR, STEPS, STARTS = 0.5, 120, 8


class Arrival(gymnasium.Wrapper):
    """Maze whose episode ends with reward 1 at a given cell, or with 0 at a time limit."""

    def __init__(self, cell: int) -> None:
        super().__init__(make(MAZE))
        self.place, self.time = CORRIDOR[cell], 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.time = 0
        return super().reset(**options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, *_, info = super().step(action)
        self.time += 1
        arrived = bool(np.linalg.norm(observation[:2] - self.place) < NEAR)
        return observation, float(arrived), arrived, self.time == STEPS, info


gymnasium.register("Arrival-v0", Arrival)


def walk(rng: np.random.Generator, seed: int) -> Episode | None:
    """An episode from one random cell to another along the corridor, with noisy actions."""
    env = make(MAZE)
    observation, _ = env.reset(seed=seed)
    goal = int(rng.integers(len(CORRIDOR)))
    observations, actions, rewards = [observation], [], []
    for _ in range(150):
        at = int(np.abs(CORRIDOR - observation[:2]).sum(1).argmin())
        if at == goal and np.linalg.norm(observation[:2] - CORRIDOR[at]) < NEAR:
            break
        towards = CORRIDOR[at + np.sign(goal - at)] - observation[:2]
        action = np.clip(10 * towards - observation[2:] + rng.normal(0, 0.5, 2), -1, 1)
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        actions.append(action.astype(np.float32))
        rewards.append(reward)
    env.close()
    if not actions:
        return None
    return Episode(
        np.array(observations, np.float32), np.array(actions), np.array(rewards), False, True
    )


@pytest.fixture
def walks(tmp_path: Path) -> EpisodeStore:
    rng, total = np.random.default_rng(0), 0
    with StoreWriter(tmp_path / "walks") as writer:
        for episode in filter(None, (walk(rng, seed) for seed in range(1_000))):
            writer.append(episode)
            total += len(episode)
        source = {"kind": "test", "description": "walks to random cells"}
        facts = {"env_id": MAZE, "family": "maze2d-umaze", "max_episode_steps": 300}
        return writer.finish("walks", source, transitions_in=total, has_timeouts=True, **facts)


@pytest.mark.slow
def test_it_goes_where_it_is_told(walks: EpisodeStore, tmp_path: Path) -> None:
    """From eight starts to four cells by imitation, as in the published goal-reaching.

    With the other end as the goal it seldom reaches the cell, so the goal has an effect.
    """
    planner = {"horizon": 5, "beams": 8, "context": 4, "keep": 4, "objective": "likelihood"}
    settings = {
        "dataset": walks.path,
        "policy.bins": 50,
        "policy.backbone.width": 64,
        **{f"policy.planner.{key}": value for key, value in planner.items()},
        "conditioning.name": "goal",
        "train.steps": 4_000,
        "train.learning_rate": 2e-3,
        "train.fall_steps": 4_000,
        "train.log_every": 500,
        "train.checkpoint_every": 4_000,
        "evaluation.episodes": 0,
        "output": tmp_path / "run",
    }
    given = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    assert main(["train", "--config", "tt/small", *given]) == 0
    policy = checkpoint.load(tmp_path / "run").policy
    ends = walks.columns["final_observations"].array
    cells = np.abs(CORRIDOR - ends[:, None, :2]).sum(2).argmin(1)

    def arrivals(cell: int, goal_cell: int) -> float:
        """Number of starts that reach `cell` when the goal is an end state at `goal_cell`."""
        goal = ends[np.flatnonzero(cells == goal_cell)[0]]
        conditioning = GoalOutcome(goal=tuple(goal.tolist()))
        environments = Environments(f'Arrival-v0?{{"cell": {cell}}}', STARTS)
        seeds = range(100, 100 + STARTS)
        shared = (policy, conditioning, 10, environments, [None] * STARTS, seeds)
        return float(rollout_returns(*shared, temperature=1.0)[0].mean())

    found = {cell: arrivals(cell, cell) for cell in (0, 2, 4, 6)}
    other = {cell: arrivals(cell, 6 - cell) for cell in (0, 6)}
    assert np.mean(list(found.values())) >= 0.7, found
    assert found[0] - other[0] + found[6] - other[6] >= 0.5, (found, other)
