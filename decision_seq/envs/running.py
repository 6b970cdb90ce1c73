"""Making of an environment by its id, and N copies of one stepped together."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.atari_scores import ATARI
from decision_seq.envs.facts import FACTS, NAMESPACE, parse_id
from decision_seq.types import UserError

# Beginnings of the ids that need the `robotics` extra, so that an error can name it.
ROBOTICS = (NAMESPACE, "AdroitHand", "AntMaze_", "Fetch", "FrankaKitchen", "Hand", "PointMaze_")
# Beginnings of ids -> the module, the package and the extra that they need.
EXTRAS = {
    ROBOTICS: ("gymnasium_robotics", "gymnasium-robotics", "robotics"),
    (ATARI,): ("ale_py", "ale-py", "atari"),
}
# Errors that environments raise for an unknown argument or an unsuitable simulator.
REFUSALS = (ImportError, ValueError, TypeError, AttributeError, AssertionError)


def make(env_id: str, **more: Any) -> Any:
    """Make one Gymnasium environment; UserError if the id is unknown or its simulator is missing.

    A dictionary of observations becomes one vector by Gymnasium's `FlattenObservation`, with the
    entries in the order of the space's keys.

    env_id: a registered id, with Gymnasium's keyword arguments, if any, as JSON after a question
    mark: `Ant-v4?{"use_contact_forces": true}`. more: further keyword arguments, such as
    render_mode.
    """
    import gymnasium

    name, options = parse_id(env_id)
    if "render_mode" in options:  # a window would need a display, and nothing draws into it
        raise UserError(
            f"environment {env_id!r}: render_mode is no part of an id; leave it out, and ask for"
            " films by `evaluate --video`"
        )
    module, _, name = name.rpartition(":")
    if module and module not in sys.modules:
        raise UserError(
            f"environment {env_id!r} is of the module {module}, which is imported only for an"
            " environment that you name yourself (--env, --evaluation.env_id), never for one named"
            " by data"
        )
    _find(name)
    _silence_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # D4RL's data need -v4
            env = gymnasium.make(name, **{**options, **more})
    except gymnasium.error.NameNotFound as error:
        known = difflib.get_close_matches(name, list(gymnasium.registry), 3, 0.5)
        hint = f"; did you mean {', '.join(known)}?" if known else ""
        raise UserError(f"environment {name!r} is not registered with Gymnasium{hint}") from error
    except (gymnasium.error.Error, *REFUSALS) as error:
        reason = " ".join(str(error).split()) or f"it fails with {type(error).__name__}"
        raise UserError(f"environment {env_id!r}: {reason}") from error
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        return gymnasium.wrappers.FlattenObservation(env)
    return env


def trust(env_id: str) -> None:
    """Import the module of `module:Env-v0`; only for an id given by the user, not by data."""
    module = env_id.partition("?")[0].rpartition(":")[0]
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"environment {env_id!r}: {error}") from error


def action_space(env_id: str) -> ActionSpace:
    """The actions of an environment, which is made for it; UserError if it cannot be made."""
    env = make(env_id)
    try:
        return ActionSpace.of(env.action_space, env_id)
    finally:
        env.close()


def obstacle(env_id: str | None, family: str | None) -> str | None:
    """The reason why policies of a task cannot be rolled out here; None if they can.

    env_id: the environment named by the data; it is made once as a check.
    """
    if env_id is not None:
        try:
            make(env_id).close()
        except UserError as error:
            return str(error)
        return None
    facts = FACTS.get(family or "")
    return f"no environment is available for {family} today ({facts.absent})" if facts else None


def missing_extra(env_id: str) -> str | None:
    """A message on the package that an environment needs and lacks; None if none is missing."""
    for beginnings, (module, package, extra) in EXTRAS.items():
        if env_id.startswith(beginnings) and not importlib.util.find_spec(module):
            name = env_id.partition("?")[0]
            return f"{name} needs {package} (pip install 'decision-seq[{extra}]')"
    return None


def _find(name: str) -> None:
    """Import the packages that may register the id; UserError if an extra is missing."""
    import gymnasium

    from decision_seq.envs import (  # noqa: F401 (they register)
        cheetahs,
        key_to_door,
        reacher2d,
        standins,
    )

    missing = missing_extra(name)
    if missing:
        raise UserError(f"environment {missing}")
    if name.startswith(ATARI):
        from decision_seq.envs import atari

        atari.register()
        return
    known = name in gymnasium.registry and not name.startswith(NAMESPACE)
    if not known:
        register_robotics()


def register_robotics() -> None:
    """Register gymnasium-robotics' environments, where it is installed."""
    if importlib.util.find_spec("gymnasium_robotics"):
        # Its import prints a note on its Adroit rewards, which `envs.adroit` does not use.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import_module("gymnasium_robotics")


def _silence_mujoco() -> None:
    """Stop MuJoCo from writing MUJOCO_LOG.TXT to the working directory for model warnings."""
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)


class Environments:
    """N copies of one environment, stepped together; an ended one stays idle until `reset`.

    Unlike a Gymnasium vector environment, it never restarts an episode by itself. Exactly N
    episodes are run, and short ones are not overrepresented.

    delayed: the last step of an episode returns the sum of its rewards, all other steps return 0.
    """

    def __init__(self, env_id: str, count: int, delayed: bool = False) -> None:
        if count < 1:
            raise UserError(f"{count} environments requested; at least 1 is needed")
        self.env_id = env_id
        self.envs = [make(env_id) for _ in range(count)]
        self.actions = ActionSpace.of(self.envs[0].action_space, env_id)
        self.running = np.zeros(count, bool)
        self.delayed, self.withheld = delayed, np.zeros(count)

    def __len__(self) -> int:
        return len(self.envs)

    @property
    def discrete(self) -> bool:
        """Whether an action is one of several choices."""
        return self.actions.kind == "discrete"

    @property
    def sizes(self) -> tuple[tuple[int, ...], int]:
        """Observation shape, and action size: dimensions, or choices of a discrete action."""
        seen = self.envs[0].observation_space
        if type(seen).__name__ != "Box":
            raise UserError(
                f"{self.env_id} has a space {seen}; vectors of numbers (Box) are needed"
            )
        return tuple(seen.shape), self.actions.size

    @property
    def max_episode_steps(self) -> int | None:
        """Time limit in steps; None if there is none."""
        spec = self.envs[0].spec
        return spec.max_episode_steps if spec else None

    def reset(self, seeds: Sequence[int], rows: Sequence[int] | np.ndarray | None = None) -> Any:
        """Start `len(seeds)` episodes, the i-th with its own seed -> observations [N, ...].

        rows: the environments to start; None for the first ones, and all others are then idle.
        """
        if rows is None:
            self.running[:] = False
            rows = range(len(seeds))
        observations = [
            self.envs[row].reset(seed=seed)[0] for row, seed in zip(rows, seeds, strict=True)
        ]
        self.running[list(rows)] = True
        self.withheld[list(rows)] = 0
        return np.stack(observations)

    def step(
        self, rows: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Step the environments `rows` -> observations, rewards, terminated, truncated.

        actions: [R, A], or [R] if discrete, see `ActionSpace`; UserError for actions of the other
        kind.
        """
        if self.discrete != (actions.ndim == 1):
            takes = "a choice" if self.discrete else "a vector"
            raise UserError(
                f"{self.env_id} takes {takes} as an action, which the policy does not give; name"
                " another environment"
            )
        acted = actions if self.actions.plain else map(self.actions.to_environment, actions)
        results = [self.envs[row].step(action) for row, action in zip(rows, acted, strict=True)]
        observations, step_rewards, terminated, truncated, _ = zip(*results, strict=True)
        ended = np.array(terminated, bool) | np.array(truncated, bool)
        self.running[rows[ended]] = False
        rewards = np.array(step_rewards, np.float64)
        if self.delayed:
            self.withheld[rows] += rewards
            rewards = np.where(ended, self.withheld[rows], 0.0)
        return (
            np.stack(observations),
            rewards,
            np.array(terminated, bool),
            np.array(truncated, bool),
        )

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()
