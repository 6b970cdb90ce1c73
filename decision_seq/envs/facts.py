"""Facts of tasks: the environment of each, its reference scores, and its differences from D4RL's.

Reference scores are D4RL's (Farama-Foundation/D4RL, d4rl/infos.py, Apache-2.0), and those of
`envs.atari_scores`. D4RL's own package cannot be imported today (it needs mujoco-py and MuJoCo
2.1), so policies for its data are rolled out in Gymnasium's MuJoCo environments. `-v4` has the
rewards and observations of the `-v2` that collected the data; the simulator itself is newer (see
`ENVIRONMENT_NOTE`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from decision_seq.envs import atari_scores
from decision_seq.envs.atari_scores import ATARI
from decision_seq.types import UserError

Returns = TypeVar("Returns", float, np.ndarray)
NAMESPACE = "d4rl/"  # of the environments that `envs.standins` registers
ENVIRONMENT_NOTE = (
    "Gymnasium -v4 environments follow D4RL's -v2 in rewards and observations; the MuJoCo"
    " simulator is newer, so scores are close to, not equal to, those measured with mujoco-py"
)
SIMULATOR_NOTE = (
    "it replaces D4RL's own environment, which needs mujoco-py; the MuJoCo simulator is newer, so"
    " scores are close to, not equal to, D4RL's"
)
V5_OF_D4RLS_TASKS = ("Hopper-v5", "Walker2d-v5")
V5_NOTE = (
    "-v5 is not the environment of D4RL's reference scores: the step of a fall earns 1 less, and"
    " Walker2d's feet have more friction"
)
ANT_NOTE = (
    "contact forces are computed here and cost reward, while mujoco-py 2.0 left them at 0"
    " (openai/gym#1541)"
)
ANTMAZE_DIFFERENCES = (
    "the ant is Gymnasium's with the strength, time step and contacts of D4RL's",
    "the goal is drawn anew around its cell for every episode, as in D4RL's v2; its v0 and v1 draw"
    " it once",
)
MAZE2D_DIFFERENCES = ("time limits are those of the newest version D4RL has of each maze",)
HUMAN_NOTE = (
    "normalized scores are human-normalised: 0 a random player, 100 a human"
    " (google-deepmind/dqn_zoo, 30 minutes, no-op starts)"
)
KEY_TO_DOOR = "KeyToDoor-v0"
KEY_TO_DOOR_DIFFERENCES = (
    "the Decision Transformer paper's Key-to-Door was never released; this one is ours, and its"
    " scores are success rates in percent",
)
ADROIT_DIFFERENCES = (
    "rewards and ends are computed as D4RL's source has them; gymnasium-robotics' own differ",
)


@dataclass(frozen=True)
class EnvironmentFacts:
    """Facts of a family of tasks."""

    env_id: str | None
    """The id of the environment to evaluate in; None if there is none."""
    reference_scores: tuple[float, float] | None
    """(random, expert) raw returns, for Atari (random, human), which are the normalized scores 0
    and 100; None if none are published."""
    max_episode_steps: int | None
    """Time limit in steps; None if unknown."""
    sizes: tuple[int, int] | None = None
    """Observation and action size; None if the task is not identified by them."""
    return_scale: float | None = None
    """Divisor of returns in the Decision Transformer's code; None if none is published."""
    targets: tuple[float, ...] | None = None
    """Raw target returns of the Decision Transformer's code (kzl/decision-transformer
    gym/experiment.py, atari/mingpt); None if none are published."""
    velocity: int | None = None
    """Index of the velocity along x in an observation (frt03/generalized_dt train_cdt.py)."""
    differences: tuple[str, ...] = ()
    """Differences of the environment from the one that made the data, one sentence each."""
    absent: str | None = None
    """Reason why there is no environment for the task; None if there is one."""
    action_bounds: tuple[float, float] = (-1.0, 1.0)
    """Bounds of every entry of a continuous action."""


def _stand_in(
    name: str,
    scores: tuple[float, float],
    steps: int,
    sizes: tuple[int, int],
    differences: tuple[str, ...],
) -> EnvironmentFacts:
    """Facts of a task beyond locomotion, whose environment `envs.standins` registers."""
    return EnvironmentFacts(
        f"{NAMESPACE}{name}-v0", scores, steps, sizes, differences=(SIMULATOR_NOTE, *differences)
    )


def _antmaze(layout: str, steps: int) -> EnvironmentFacts:
    return _stand_in(f"antmaze-{layout}", (0.0, 1.0), steps, (29, 8), ANTMAZE_DIFFERENCES)


def _maze2d(layout: str, scores: tuple[float, float], steps: int) -> EnvironmentFacts:
    return _stand_in(f"maze2d-{layout}", scores, steps, (4, 2), MAZE2D_DIFFERENCES)


def _adroit(
    task: str, scores: tuple[float, float], steps: int, sizes: tuple[int, int]
) -> EnvironmentFacts:
    return _stand_in(task, scores, steps, sizes, ADROIT_DIFFERENCES)


def _atari(game: str, scores: tuple[float, float]) -> EnvironmentFacts:
    target = atari_scores.TARGETS.get(game)
    return EnvironmentFacts(
        atari_scores.env_id_of(game),
        scores,
        atari_scores.MOST_STEPS,
        return_scale=1.0,
        targets=None if target is None else (target,),
    )


# Beginning of D4RL's dataset names or of Atari's environment ids -> facts; the longest match wins.
FACTS: dict[str, EnvironmentFacts] = {
    "hopper": EnvironmentFacts(
        "Hopper-v4", (-20.272305, 3234.3), 1000, (11, 3), 1000.0, (3600.0, 1800.0), 5
    ),
    "halfcheetah": EnvironmentFacts(
        "HalfCheetah-v4", (-280.178953, 12135.0), 1000, (17, 6), 1000.0, (12000.0, 6000.0), 8
    ),
    "walker2d": EnvironmentFacts(
        "Walker2d-v4", (1.629008, 4592.3), 1000, (17, 6), 1000.0, (5000.0, 2500.0), 8
    ),
    "reacher2d": EnvironmentFacts("Reacher2d-v0", None, 100, (12, 2), 10.0, (76.0, 40.0)),
    "key-to-door": EnvironmentFacts(
        KEY_TO_DOOR,
        (0.0, 1.0),
        30,
        return_scale=1.0,
        targets=(1.0,),
        differences=KEY_TO_DOOR_DIFFERENCES,
    ),
    # Ant-v4 omits the contact forces by default; D4RL's data have these 84 columns.
    "ant": EnvironmentFacts(
        'Ant-v4?{"use_contact_forces": true}',
        (-325.6, 3879.7),
        1000,
        (111, 8),
        differences=(ANT_NOTE,),
    ),
    "antmaze-umaze": _antmaze("umaze", 700),
    "antmaze-medium": _antmaze("medium", 1000),
    "antmaze-large": _antmaze("large", 1000),
    "antmaze": EnvironmentFacts(
        None, (0.0, 1.0), 1000, (29, 8), absent="only umaze, medium and large are rebuilt"
    ),
    "pen": _adroit("pen", (96.262799, 3076.8331017826877), 100, (45, 24)),
    "hammer": _adroit("hammer", (-274.856578, 12794.134825156867), 200, (46, 26)),
    "door": _adroit("door", (-56.512833, 2880.5693087298737), 200, (39, 28)),
    "relocate": _adroit("relocate", (-6.425911, 4233.877797728884), 200, (39, 30)),
    "kitchen": EnvironmentFacts(
        None,
        (0.0, 4.0),
        280,
        (60, 9),
        absent="gymnasium-robotics' FrankaKitchen-v1 fails with MuJoCo 3 and 4",
    ),
    "maze2d-open": _maze2d("open", (0.01, 20.66), 150),
    "maze2d-umaze": _maze2d("umaze", (23.85, 161.86), 300),
    "maze2d-medium": _maze2d("medium", (13.13, 277.39), 600),
    "maze2d-large": _maze2d("large", (6.7, 273.99), 800),
    "maze2d-open-dense": _maze2d("open-dense", (11.17817, 27.166538620695782), 150),
    "maze2d-umaze-dense": _maze2d("umaze-dense", (68.537689, 193.66285642381482), 300),
    "maze2d-medium-dense": _maze2d("medium-dense", (44.264742, 297.4552547777125), 600),
    "maze2d-large-dense": _maze2d("large-dense", (30.569041, 303.4857382709002), 800),
    "minigrid-fourrooms": EnvironmentFacts(
        None, (0.01442, 2.89685), None, absent="D4RL's gridworld is not rebuilt"
    ),
    **{
        atari_scores.family_of(game): _atari(game, scores)
        for game, scores in atari_scores.SCORES.items()
    },
}


def canonical(name: str) -> str:
    """Canonical form of a name: `hopper_medium-v2.hdf5` -> `hopper-medium-v2`."""
    return name.lower().removesuffix(".hdf5").removesuffix(".h5").replace("_", "-")


def facts_by_name(name: str) -> tuple[str, EnvironmentFacts] | None:
    """The family of a dataset, a file or an environment id, and its facts; None if unknown.

    The family's name begins `name`, or `name` is the id of its environment.
    """
    bare = name.partition("?")[0]
    name = canonical(name)
    fitting = [
        key
        for key, facts in FACTS.items()
        if name == key or name.startswith(key + "-") or bare == facts.env_id
    ]
    return max(((key, FACTS[key]) for key in fitting), key=lambda item: len(item[0]), default=None)


def facts_by_environment(env_id: str | None) -> EnvironmentFacts | None:
    """The facts of the family whose environment has this id, options included; None if unknown."""
    fitting = [facts for facts in FACTS.values() if env_id and facts.env_id == env_id]
    return fitting[0] if fitting else None


def normalized_score(name: str, returns: Returns) -> Returns | None:
    """Normalized score of a task by its name, as in D4RL's papers; None if unknown."""
    found = facts_by_name(name)
    if found is None or found[1].reference_scores is None:
        return None
    return normalize(returns, found[1].reference_scores)


def normalize(returns: Returns, reference_scores: tuple[float, float]) -> Returns:
    """Normalized score, 100 * (return - random) / (expert - random)."""
    low, high = reference_scores
    return 100.0 * (returns - low) / (high - low)


def parse_id(env_id: str) -> tuple[str, dict[str, Any]]:
    """Split `id?{"keyword": value}` into the id and the keyword arguments; UserError if invalid."""
    name, mark, text = env_id.partition("?")
    try:
        options = json.loads(text) if mark else {}
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise UserError(
            f"environment {env_id!r}: give a JSON object of keyword arguments after the question"
            f' mark, as in {name}?{{"max_episode_steps": 100}}'
        )
    return name, options


def score_name(env_id: str | None) -> str:
    """Name of normalized scores in the literature: "human-normalized" for Atari."""
    return "human-normalized" if (env_id or "").startswith(ATARI) else "normalized"


def environment_notes(env_id: str) -> list[str]:
    """Notes on an environment to report with its scores: versions, protocol and differences."""
    from importlib.metadata import version

    name, options = parse_id(env_id)
    simulators = ["mujoco"]
    if name.startswith(NAMESPACE):
        simulators.append("gymnasium-robotics")
    elif name.startswith(ATARI):
        simulators = ["ale-py"]
    elif name == KEY_TO_DOOR:
        simulators = []
    notes = [", ".join(f"{package} {version(package)}" for package in ["gymnasium", *simulators])]
    for facts in FACTS.values():
        if facts.env_id in (env_id, name):
            notes += facts.differences
    if name.startswith(ATARI):
        notes.append(atari_scores.protocol(options))
        notes += [HUMAN_NOTE] if facts_by_name(name) else []
    if name.endswith("-v4"):
        notes.append(ENVIRONMENT_NOTE)
    if name in V5_OF_D4RLS_TASKS:
        notes.append(V5_NOTE)
    return notes
