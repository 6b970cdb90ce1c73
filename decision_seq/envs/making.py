"""Making of an environment by its id."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import warnings
from importlib import import_module
from typing import Any

import numpy as np

from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.atari_scores import ATARI
from decision_seq.envs.facts import FACTS, NAMESPACE, parse_id
from decision_seq.envs.named import import_module_of, require_plain
from decision_seq.envs.observations import Vectors
from decision_seq.modules import FAILURES, described
from decision_seq.types import UserError

# Beginnings of the ids that need the `robotics` extra, so that an error can name it.
ROBOTICS = (NAMESPACE, "AdroitHand", "AntMaze_", "Fetch", "FrankaKitchen", "Hand", "PointMaze_")
# Beginnings of ids -> the module, the package and the extra that they need.
EXTRAS = {
    ROBOTICS: ("gymnasium_robotics", "gymnasium-robotics", "robotics"),
    (ATARI,): ("ale_py", "ale-py", "atari"),
}


def make(env_id: str, **more: Any) -> Any:
    """Make one Gymnasium environment; UserError if it is unknown, or fails with anything.

    Its observations are vectors by the rule of `envs.observations`, or stacks of frames.

    env_id: a registered id, with Gymnasium's keyword arguments, if any, as JSON after a question
    mark: `Ant-v4?{"use_contact_forces": true}`. An id that the user did not name (`trust`) has the
    limits of `envs.named`. more: further keyword arguments, such as render_mode.
    """
    env = _make(env_id, more)
    _require_spaces(env, env_id)
    return _with_vectors(env, env_id)


def spaces(env_id: str) -> Any:
    """An object with the environment's own `observation_space` and `action_space`."""
    env = _make(env_id, {})
    _require_spaces(env, env_id)
    close(env, env_id)
    return env


def close(env: Any, env_id: str) -> None:
    """Close an environment; UserError if it fails."""
    try:
        env.close()
    except FAILURES as error:
        raise UserError(f"{env_id} fails when it is closed: {described(error)}") from error


def _make(env_id: str, more: dict[str, Any]) -> Any:
    import gymnasium

    name, options = parse_id(env_id)
    if "render_mode" in options:  # a window would need a display, and nothing draws into it
        raise UserError(
            f"environment {env_id!r}: render_mode is no part of an id; leave it out, and ask for"
            " films by `evaluate --video`"
        )
    module, _, name = name.rpartition(":")
    _silence_mujoco()
    _find(name)
    require_plain(env_id, module, name, options)
    import_module_of(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # D4RL's data need -v4
            env = gymnasium.make(name, **{**options, **more})
    except gymnasium.error.NameNotFound as error:
        known = difflib.get_close_matches(name, list(gymnasium.registry), 3, 0.5)
        hint = f"; did you mean {', '.join(known)}?" if known else ""
        raise UserError(f"environment {name!r} is not registered with Gymnasium{hint}") from error
    except gymnasium.error.Error as error:
        reason = " ".join(str(error).split()) or f"it fails with {type(error).__name__}"
        raise UserError(f"environment {env_id!r}: {reason}") from error
    except FAILURES as error:
        raise UserError(f"environment {env_id!r} cannot be made: {described(error)}") from error
    return env


def _require_spaces(env: Any, env_id: str) -> None:
    """Raise UserError unless the environment has an observation space and an action space."""
    from gymnasium.spaces import Space

    for name in ("observation_space", "action_space"):
        try:
            space = getattr(env, name)
        except FAILURES as error:
            raise UserError(f"environment {env_id!r}: {name} fails: {described(error)}") from error
        if not isinstance(space, Space):
            raise UserError(
                f"environment {env_id!r}: {name} is of type {type(space).__name__}, but a space of"
                " Gymnasium is needed"
            )


def _with_vectors(env: Any, env_id: str) -> Any:
    """The environment with its observations as vectors, unless they are vectors or frames.

    An environment shows stacks of frames if its attribute `stacked_frames` is true.
    """
    import gymnasium

    space = env.observation_space
    frames = getattr(env.unwrapped, "stacked_frames", False)
    if frames or (type(space).__name__ == "Box" and len(space.shape) == 1):
        return env
    try:
        layout = Vectors(space)
    except UserError as error:
        close(env, env_id)
        raise UserError(f"environment {env_id!r}: {error}") from error
    shape = (layout.size,)
    flat: Any = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
    if layout.dtype == np.uint8:
        flat = gymnasium.spaces.Box(0, 255, shape, np.uint8)
    return gymnasium.wrappers.TransformObservation(env, layout.row, flat)


def action_space(env_id: str) -> ActionSpace:
    """The actions of an environment, which is made for it; UserError if it cannot be made."""
    return ActionSpace.of(spaces(env_id).action_space, env_id)


def obstacle(env_id: str | None, family: str | None) -> str | None:
    """The reason why policies of a task cannot be rolled out here; None if they can.

    env_id: the environment named by the data; it is made once as a check.
    """
    if env_id is not None:
        try:
            close(make(env_id), env_id)
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
    try:
        import mujoco
    except (ImportError, RuntimeError) as error:  # RuntimeError: for a bad MUJOCO_GL
        raise UserError(f"MuJoCo cannot be loaded: {described(error)}") from error
    mujoco.set_mju_user_warning(lambda message: None)
