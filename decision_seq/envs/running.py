"""N copies of one environment, stepped together."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from decision_seq.types import UserError


def make(env_id: str) -> Any:
    """One Gymnasium environment; UserError when the id is unknown or its simulator is missing."""
    import gymnasium

    from decision_seq.envs import reacher2d  # noqa: F401 (registers itself)

    _silence_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # -v4 is what D4RL's data need
            return gymnasium.make(env_id)
    except gymnasium.error.NameNotFound as error:
        known = difflib.get_close_matches(env_id, list(gymnasium.registry), 3, 0.5)
        hint = f"; did you mean {', '.join(known)}?" if known else ""
        raise UserError(f"environment {env_id!r} is not registered with Gymnasium{hint}") from error
    except (gymnasium.error.Error, ImportError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"environment {env_id!r}: {' '.join(str(error).split())}") from error


def _silence_mujoco() -> None:
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory for each model warning."""
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)


class Environments:
    """N copies of one environment, stepped together; one that has ended rests until `reset`.

    Unlike a Gymnasium vector environment it never restarts an episode by itself, so exactly N
    episodes are seen and none is favoured for being short.
    """

    def __init__(self, env_id: str, count: int) -> None:
        if count < 1:
            raise UserError(f"{count} environments asked for; at least 1 is needed")
        self.env_id = env_id
        self.envs = [make(env_id) for _ in range(count)]
        self.running = np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self.envs)

    @property
    def sizes(self) -> tuple[tuple[int, ...], int]:
        """Observation shape and action size."""
        spaces = self.envs[0].observation_space, self.envs[0].action_space
        for space in spaces:
            if type(space).__name__ != "Box":
                raise UserError(
                    f"{self.env_id} has a space of kind {type(space).__name__}; vectors of numbers"
                    " (Box) are needed"
                )
        return tuple(spaces[0].shape), int(np.prod(spaces[1].shape))

    @property
    def max_episode_steps(self) -> int | None:
        spec = self.envs[0].spec
        return spec.max_episode_steps if spec else None

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Start `len(seeds)` episodes, the i-th with its own seed -> observations [N, ...]."""
        observations = [
            env.reset(seed=seed)[0] for env, seed in zip(self.envs, seeds, strict=False)
        ]
        self.running[:] = False
        self.running[: len(observations)] = True
        return np.stack(observations)

    def step(
        self, rows: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Act in the environments `rows` -> observations, rewards, terminated, truncated."""
        results = [self.envs[row].step(action) for row, action in zip(rows, actions, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*results, strict=True)
        ended = np.array(terminated, bool) | np.array(truncated, bool)
        self.running[rows[ended]] = False
        return (
            np.stack(observations),
            np.array(rewards, np.float64),
            np.array(terminated, bool),
            np.array(truncated, bool),
        )

    def close(self) -> None:
        for env in self.envs:
            env.close()
