"""Tasks: which environment stands for which data, and what its scores mean.

Reference scores are D4RL's (Farama-Foundation/D4RL, d4rl/infos.py, Apache-2.0). D4RL's own package
cannot be imported today (it needs mujoco-py and MuJoCo 2.1), so its data are rolled out in
Gymnasium's MuJoCo environments: `-v4` keeps the rewards and the observations of the `-v2` that
collected the data; the simulator itself is newer (see `ENVIRONMENT_NOTE`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENVIRONMENT_NOTE = (
    "Gymnasium -v4 environments follow D4RL's -v2 in rewards and observations; the MuJoCo"
    " simulator is newer, so scores are close to, not equal to, those measured with mujoco-py"
)


@dataclass(frozen=True)
class EnvironmentFacts:
    """What is known of a family of tasks.

    reference_scores: (random, expert) raw returns: normalized score 0 and 100; None where nobody
        published any.
    targets: the two raw returns the Decision Transformer's code asks for (kzl/decision-transformer
    gym/experiment.py); return_scale: what it divides returns by. None where nobody published one.
    """

    env_id: str | None
    reference_scores: tuple[float, float] | None
    max_episode_steps: int | None
    sizes: tuple[int, int] | None = None  # observation and action size
    return_scale: float | None = None
    targets: tuple[float, ...] | None = None


# Keyed by the beginning of D4RL's dataset names; the longest that fits wins.
FACTS: dict[str, EnvironmentFacts] = {
    "hopper": EnvironmentFacts(
        "Hopper-v4", (-20.272305, 3234.3), 1000, (11, 3), 1000.0, (3600.0, 1800.0)
    ),
    "halfcheetah": EnvironmentFacts(
        "HalfCheetah-v4", (-280.178953, 12135.0), 1000, (17, 6), 1000.0, (12000.0, 6000.0)
    ),
    "walker2d": EnvironmentFacts(
        "Walker2d-v4", (1.629008, 4592.3), 1000, (17, 6), 1000.0, (5000.0, 2500.0)
    ),
    "reacher2d": EnvironmentFacts("Reacher2d-v0", None, 100, (12, 2), 10.0, (76.0, 40.0)),
    "ant": EnvironmentFacts("Ant-v4", (-325.6, 3879.7), 1000, (111, 8)),
    "antmaze-umaze": EnvironmentFacts(None, (0.0, 1.0), 700, (29, 8)),
    "antmaze": EnvironmentFacts(None, (0.0, 1.0), 1000, (29, 8)),
    "pen": EnvironmentFacts(None, (96.262799, 3076.8331017826877), 100, (45, 24)),
    "hammer": EnvironmentFacts(None, (-274.856578, 12794.134825156867), 200, (46, 26)),
    "door": EnvironmentFacts(None, (-56.512833, 2880.5693087298737), 200, (39, 28)),
    "relocate": EnvironmentFacts(None, (-6.425911, 4233.877797728884), 200, (39, 30)),
    "kitchen": EnvironmentFacts(None, (0.0, 4.0), 280, (60, 9)),
    "maze2d-open": EnvironmentFacts(None, (0.01, 20.66), 150, (4, 2)),
    "maze2d-umaze": EnvironmentFacts(None, (23.85, 161.86), 300, (4, 2)),
    "maze2d-medium": EnvironmentFacts(None, (13.13, 277.39), 600, (4, 2)),
    "maze2d-large": EnvironmentFacts(None, (6.7, 273.99), 800, (4, 2)),
    "maze2d-open-dense": EnvironmentFacts(None, (11.17817, 27.166538620695782), 150, (4, 2)),
    "maze2d-umaze-dense": EnvironmentFacts(None, (68.537689, 193.66285642381482), 300, (4, 2)),
    "maze2d-medium-dense": EnvironmentFacts(None, (44.264742, 297.4552547777125), 600, (4, 2)),
    "maze2d-large-dense": EnvironmentFacts(None, (30.569041, 303.4857382709002), 800, (4, 2)),
    "minigrid-fourrooms": EnvironmentFacts(None, (0.01442, 2.89685), None),
}


def canonical(name: str) -> str:
    """`hopper_medium-v2.hdf5`, `Hopper-v4` -> `hopper-medium-v2`, `hopper-v4`."""
    return name.lower().removesuffix(".hdf5").removesuffix(".h5").replace("_", "-")


def facts_by_name(name: str) -> tuple[str, EnvironmentFacts] | None:
    """The family whose name begins `name` (a dataset's, a file's or an environment id)."""
    name = canonical(name)
    fitting = [key for key in FACTS if name == key or name.startswith(key + "-")]
    return max(((key, FACTS[key]) for key in fitting), key=lambda item: len(item[0]), default=None)


def facts_by_sizes(observation_size: int, action_size: int) -> tuple[str, EnvironmentFacts] | None:
    """The one family with an environment and these sizes; None when none or several have them."""
    sizes = (observation_size, action_size)
    found = [(key, facts) for key, facts in FACTS.items() if facts.sizes == sizes and facts.env_id]
    return found[0] if len(found) == 1 else None


def normalized_score(name: str, returns: float | np.ndarray) -> float | np.ndarray | None:
    """100 * (return - random) / (expert - random), as D4RL's papers print it; None if unknown."""
    found = facts_by_name(name)
    if found is None or found[1].reference_scores is None:
        return None
    low, high = found[1].reference_scores
    return 100.0 * (returns - low) / (high - low)


def environment_notes(env_id: str) -> list[str]:
    """What must be known of a score's environment, to stand beside it."""
    import gymnasium
    import mujoco

    versions = f"gymnasium {gymnasium.__version__}, mujoco {mujoco.__version__}"
    return [versions, ENVIRONMENT_NOTE] if env_id.endswith("-v4") else [versions]
