"""Tasks: which environment stands for which data, and what its scores mean.

Reference scores are D4RL's (Farama-Foundation/D4RL, d4rl/infos.py, Apache-2.0), and those of
`envs.atari_scores`. D4RL's own package
cannot be imported today (it needs mujoco-py and MuJoCo 2.1), so its data are rolled out in
Gymnasium's MuJoCo environments: `-v4` keeps the rewards and the observations of the `-v2` that
collected the data; the simulator itself is newer (see `ENVIRONMENT_NOTE`).
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
    "it stands for D4RL's own environment, which needs mujoco-py; the MuJoCo simulator is newer, so"
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
    """What is known of a family of tasks.

    reference_scores: (random, expert) raw returns, of Atari (random, human): normalized score 0
        and 100; None where nobody published any.
    targets: the raw returns the Decision Transformer's code asks for (kzl/decision-transformer
    gym/experiment.py, atari/mingpt); return_scale: what it divides returns by. None where nobody
    published one.
    velocity: the dimension of an observation that holds the velocity along x
    (frt03/generalized_dt train_cdt.py).
    differences: of the environment from the one that made the data, a sentence each; absent: why
    no environment stands for the task.
    """

    env_id: str | None
    reference_scores: tuple[float, float] | None
    max_episode_steps: int | None
    sizes: tuple[int, int] | None = None  # observation and action size
    return_scale: float | None = None
    targets: tuple[float, ...] | None = None
    velocity: int | None = None
    differences: tuple[str, ...] = ()
    absent: str | None = None


def _stand_in(
    name: str,
    scores: tuple[float, float],
    steps: int,
    sizes: tuple[int, int],
    differences: tuple[str, ...],
) -> EnvironmentFacts:
    """A task beyond locomotion, for which `envs.standins` registers an environment."""
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


# Keyed by the beginning of D4RL's dataset names, and of Atari's environment ids; the longest that
# fits wins.
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
    # Ant-v4 leaves the contact forces out unless asked; D4RL's data have their 84 columns.
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
    """`hopper_medium-v2.hdf5`, `Hopper-v4` -> `hopper-medium-v2`, `hopper-v4`."""
    return name.lower().removesuffix(".hdf5").removesuffix(".h5").replace("_", "-")


def facts_by_name(name: str) -> tuple[str, EnvironmentFacts] | None:
    """The family whose name begins `name` (a dataset's, a file's or an environment id), or whose
    environment it is."""
    bare = name.partition("?")[0]
    name = canonical(name)
    fitting = [
        key
        for key, facts in FACTS.items()
        if name == key or name.startswith(key + "-") or bare == facts.env_id
    ]
    return max(((key, FACTS[key]) for key in fitting), key=lambda item: len(item[0]), default=None)


def normalized_score(name: str, returns: Returns) -> Returns | None:
    """100 * (return - random) / (expert - random), as D4RL's papers print it; None if unknown."""
    found = facts_by_name(name)
    if found is None or found[1].reference_scores is None:
        return None
    return normalize(returns, found[1].reference_scores)


def normalize(returns: Returns, reference_scores: tuple[float, float]) -> Returns:
    """100 * (return - random) / (expert - random)."""
    low, high = reference_scores
    return 100.0 * (returns - low) / (high - low)


def parse_id(env_id: str) -> tuple[str, dict[str, Any]]:
    """`id?{"keyword": value}` -> the id, the keyword arguments; UserError for anything else."""
    name, mark, text = env_id.partition("?")
    try:
        options = json.loads(text) if mark else {}
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise UserError(
            f"environment {env_id!r}: behind the question mark stands a JSON object of keyword"
            f' arguments, as in {name}?{{"max_episode_steps": 100}}'
        )
    return name, options


def score_name(env_id: str | None) -> str:
    """What the literature calls a normalized score: it says of Atari that 100 is a human's."""
    return "human-normalized" if (env_id or "").startswith(ATARI) else "normalized"


def environment_notes(env_id: str) -> list[str]:
    """What must be known of a score's environment, to stand beside it."""
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
