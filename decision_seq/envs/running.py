"""One environment by its id, and N copies of it stepped together."""

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

from decision_seq.envs.atari_scores import ATARI
from decision_seq.envs.facts import FACTS, NAMESPACE, parse_id
from decision_seq.types import UserError

# How the ids of the `robotics` extra begin, so that its lack can be named.
ROBOTICS = (NAMESPACE, "AdroitHand", "AntMaze_", "Fetch", "FrankaKitchen", "Hand", "PointMaze_")
# How ids begin -> the module, the package and the extra that they need.
EXTRAS = {
    ROBOTICS: ("gymnasium_robotics", "gymnasium-robotics", "robotics"),
    (ATARI,): ("ale_py", "ale-py", "atari"),
}
# What environments raise on an argument they do not know, or on a simulator they do not fit.
REFUSALS = (ImportError, ValueError, TypeError, AttributeError, AssertionError)


def make(env_id: str, **more: Any) -> Any:
    """One Gymnasium environment; UserError when the id is unknown or its simulator is missing.

    env_id: a registered id, with Gymnasium's keyword arguments as JSON behind a question mark
    where it needs any: `Ant-v4?{"use_contact_forces": true}`. A dictionary of observations becomes
    one vector by Gymnasium's `FlattenObservation`: the entries in the space's order of keys.
    more: further keyword arguments, such as render_mode.
    """
    import gymnasium

    name, options = parse_id(env_id)
    if "render_mode" in options:  # a window would need a display, and be drawn into by nobody
        raise UserError(
            f"environment {env_id!r}: render_mode is no part of an id; leave it out, and ask for"
            " films by `evaluate --video`"
        )
    module, _, name = name.rpartition(":")
    if module and module not in sys.modules:
        raise UserError(
            f"environment {env_id!r} is of the module {module}, which is imported only for an"
            " environment that you name yourself (--env, --evaluation.env_id), never for one that"
            " data name"
        )
    _find(name)
    _silence_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # -v4 is what D4RL's data need
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
    """Import the module of `module:Env-v0`, for an id that the user gave and not the data."""
    module = env_id.partition("?")[0].rpartition(":")[0]
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"environment {env_id!r}: {error}") from error


def obstacle(env_id: str | None, family: str | None) -> str | None:
    """Why the policies of a known task cannot be rolled out here; None where nothing hinders.

    env_id: the environment that the data name; made once, to see that it runs.
    """
    if env_id is not None:
        try:
            make(env_id).close()
        except UserError as error:
            return str(error)
        return None
    facts = FACTS.get(family or "")
    return f"no environment stands for {family} today ({facts.absent})" if facts else None


def missing_extra(env_id: str) -> str | None:
    """What an environment needs that is not installed; None where nothing is missing."""
    for beginnings, (module, package, extra) in EXTRAS.items():
        if env_id.startswith(beginnings) and not importlib.util.find_spec(module):
            name = env_id.partition("?")[0]
            return f"{name} needs {package} (pip install 'decision-seq[{extra}]')"
    return None


def _find(name: str) -> None:
    """Fill Gymnasium's registry from the packages that may know the id."""
    import gymnasium

    from decision_seq.envs import key_to_door, reacher2d, standins  # noqa: F401 (they register)

    missing = missing_extra(name)
    if missing:
        raise UserError(f"environment {missing}")
    if name.startswith(ATARI):
        from decision_seq.envs import atari

        atari.register()
        return
    known = name in gymnasium.registry and not name.startswith(NAMESPACE)
    if not known and importlib.util.find_spec("gymnasium_robotics"):
        # On every import it prints a note on its Adroit rewards, which `envs.adroit` does not use.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import_module("gymnasium_robotics")


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
    def discrete(self) -> bool:
        """Whether an action is one of several choices, counted from 0."""
        space = self.envs[0].action_space
        return type(space).__name__ == "Discrete" and space.start == 0

    @property
    def sizes(self) -> tuple[tuple[int, ...], int]:
        """Observation shape and action size: dimensions, or choices of a discrete action."""
        seen, acted = self.envs[0].observation_space, self.envs[0].action_space
        for space in (seen,) if self.discrete else (seen, acted):
            if type(space).__name__ != "Box":
                raise UserError(
                    f"{self.env_id} has a space {space}; vectors of numbers (Box) are needed, or,"
                    " for the action, choices counted from 0"
                )
        return tuple(seen.shape), int(acted.n if self.discrete else np.prod(acted.shape))

    @property
    def max_episode_steps(self) -> int | None:
        spec = self.envs[0].spec
        return spec.max_episode_steps if spec else None

    def reset(self, seeds: Sequence[int], rows: Sequence[int] | np.ndarray | None = None) -> Any:
        """Start `len(seeds)` episodes, the i-th with its own seed -> observations [N, ...].

        rows: the environments to start them in; None: the first ones, and all others rest.
        """
        if rows is None:
            self.running[:] = False
            rows = range(len(seeds))
        observations = [
            self.envs[row].reset(seed=seed)[0] for row, seed in zip(rows, seeds, strict=True)
        ]
        self.running[list(rows)] = True
        return np.stack(observations)

    def step(
        self, rows: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Act in the environments `rows` -> observations, rewards, terminated, truncated.

        actions: [R, A], or [R] where they are choices; UserError for those of the other kind.
        """
        if self.discrete != (actions.ndim == 1):
            takes = "a choice" if self.discrete else "a vector"
            raise UserError(
                f"{self.env_id} takes {takes} as an action, which the policy does not give; name"
                " another environment"
            )
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
