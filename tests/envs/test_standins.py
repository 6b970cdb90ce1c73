"""Tests of the stand-ins for D4RL's environments: sizes, frame, walls, goals, rewards, ends.

Layouts and goals are repeated here from D4RL's source.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest

from decision_seq import envs
from decision_seq.envs.facts import NAMESPACE

FAMILIES = [
    family for family, facts in envs.FACTS.items() if (facts.env_id or "").startswith(NAMESPACE)
]
# D4RL's free cells (row: columns), and the goal's cell.
OPEN = {1: [1, 2, 3, 4, 5], 2: [1, 2, 3, 4, 5], 3: [1, 2, 3, 4, 5]}
UMAZE = {1: [1, 2, 3], 2: [3], 3: [1, 2, 3]}
MEDIUM = {
    1: [1, 2, 5, 6],
    2: [1, 2, 4, 5, 6],
    3: [2, 3, 4],
    4: [1, 2, 4, 5, 6],
    5: [1, 3, 4, 6],
    6: [1, 2, 3, 5, 6],
}
LARGE = {
    1: [1, 2, 3, 4, 6, 7, 8, 9, 10],
    2: [1, 4, 6, 8, 10],
    3: [1, 2, 3, 4, 5, 6, 8, 9, 10],
    4: [1, 6, 10],
    5: [1, 2, 4, 6, 7, 8, 9, 10],
    6: [2, 4, 6, 8],
    7: [1, 2, 4, 5, 6, 8, 9, 10],
}
MAZES = {
    "antmaze-umaze": ((5, 5), UMAZE, (3, 1)),
    "antmaze-medium": ((8, 8), MEDIUM, (6, 6)),
    "antmaze-large": ((9, 12), LARGE, (7, 9)),
    "maze2d-open": ((5, 7), OPEN, (2, 3)),
    "maze2d-umaze": ((5, 5), UMAZE, (1, 1)),
    "maze2d-medium": ((8, 8), MEDIUM, (6, 6)),
    "maze2d-large": ((9, 12), LARGE, (7, 9)),
}


@cache
def made(family: str) -> Any:
    return envs.make(f"{NAMESPACE}{family}-v0")


def task(family: str) -> Any:
    """The stand-in itself, without Gymnasium's wrappers."""
    env = made(family)
    while not hasattr(env, "judge"):
        env = env.env
    return env


def position(family: str, row: int, column: int) -> np.ndarray:
    """D4RL's position of a cell: antmaze's centres, maze2d's starts and goals (0.2 off centre)."""
    if family.startswith("antmaze"):
        return np.array([4.0 * (column - 1), 4.0 * (row - 1)])
    return np.array([float(row), float(column)])


def place(family: str, xy: np.ndarray) -> None:
    """Place the body at rest at xy, in D4RL's frame."""
    inner = task(family)
    positions = inner.body.model.qpos0.copy()
    positions[:2] = xy
    inner.place(positions, np.zeros(inner.body.model.nv))


def touches_a_wall(family: str) -> bool:
    import mujoco

    data = task(family).body.data
    names = [
        mujoco.mj_id2name(task(family).body.model, mujoco.mjtObj.mjOBJ_GEOM, geom) or ""
        for contact in data.contact
        for geom in contact.geom
    ]
    return any(name.startswith("block") for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_and_time_limits_are_those_of_the_data(family: str) -> None:
    facts = envs.FACTS[family]
    env = made(family)
    assert facts.env_id == f"{NAMESPACE}{family}-v0"
    assert (env.observation_space.shape[0], env.action_space.shape[0]) == facts.sizes
    assert env.spec.max_episode_steps == facts.max_episode_steps
    assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_is_the_same_episode(family: str) -> None:
    def run(seed: int) -> np.ndarray:
        rng = np.random.default_rng(1)
        env = made(family)
        rows = [np.append(env.reset(seed=seed)[0], 0.0)]
        for _ in range(5):
            observation, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape))
            rows.append(np.append(observation, reward))
        return np.array(rows)

    first = run(7)
    assert (run(8) != first).any()
    np.testing.assert_array_equal(run(7), first)


@pytest.mark.parametrize("family", MAZES)
def test_walls_stand_where_d4rl_has_them(family: str) -> None:
    (rows, columns), free, _ = MAZES[family]
    made(family).reset(seed=0)
    for row in range(rows):
        for column in range(columns):
            place(family, position(family, row, column))
            assert touches_a_wall(family) == (column not in free.get(row, [])), (row, column)


def test_the_ball_of_maze2d_meets_the_wall_where_d4rls_does() -> None:
    """D4RL's walls end 0.3 after a cell's integer position on one side, 0.7 before on the other."""
    family = "maze2d-umaze"
    for target, expected in (((0.3 + 0.1, 1.0), True), ((0.3 + 0.1 + 0.02, 1.0), False)):
        place(family, np.array(target))
        assert touches_a_wall(family) == expected
    for target, expected in (((1.3 - 0.1, 1.0), True), ((1.3 - 0.1 - 0.02, 1.0), False)):
        place(family, np.array(target))
        assert touches_a_wall(family) == expected


@pytest.mark.parametrize("family", MAZES)
def test_starts_and_goals_are_d4rls(family: str) -> None:
    _, free, goal = MAZES[family]
    starts, goals = [], []
    for seed in range(60):
        observation, _ = made(family).reset(seed=seed)
        starts.append(observation[:2])
        goals.append(task(family).goal)
    start, away = np.array(starts), np.array(goals) - position(family, *goal)
    if family.startswith("antmaze"):
        assert np.abs(start).max() < 0.1
        assert away.min() >= 0
        assert 1.0 < away.max() < 1.5
        return
    assert not away.any()
    cells = np.rint(start).astype(int)
    assert np.abs(start - cells).max() < 0.1
    reached = {tuple(cell) for cell in cells}
    assert reached <= {(row, column) for row in free for column in free[row]}
    assert len(reached) > 5


@pytest.mark.parametrize("family", MAZES)
def test_the_goal_is_rewarded_within_half_a_unit(family: str) -> None:
    """Tested between gymnasium-robotics' radius of 0.45 and D4RL's of 0.5, and just beyond."""
    made(family).reset(seed=0)
    goal = task(family).goal
    still = np.zeros(made(family).action_space.shape)
    for beyond, reward in ((0.47, 1.0), (0.53, 0.0)):
        made(family).reset(seed=0)
        place(family, goal - np.array([beyond, 0.0]))
        _, rewarded, terminated, truncated, _ = made(family).step(still)
        assert rewarded == reward
        assert terminated == (bool(reward) and family.startswith("antmaze"))
        assert not truncated


def test_the_dense_reward_falls_with_the_distance() -> None:
    family = "maze2d-medium-dense"
    made(family).reset(seed=0)
    for xy in ((1.0, 1.0), (6.0, 6.0)):
        place(family, np.array(xy))
        observation, reward, *_ = made(family).step(np.zeros(2))
        assert reward == np.exp(-np.linalg.norm(observation[:2] - [6, 6]))


def test_the_ball_moves_along_d4rls_axes() -> None:
    made("maze2d-open").reset(seed=0)
    place("maze2d-open", np.array([2.0, 3.0]))
    for _ in range(10):
        observation, *_ = made("maze2d-open").step(np.array([1.0, 0.5]))
    moved = observation - [2, 3, 0, 0]
    assert moved[0] > 1.5 * moved[1] > 0
    assert moved[2] > 1.5 * moved[3] > 0


def test_the_ant_is_d4rls_not_gymnasiums() -> None:
    """Gear 30 in place of 150 in Gymnasium's ant, and 0.1 s per action in place of 0.05 s."""
    body = task("antmaze-umaze").body
    assert (body.model.actuator_gear[:, 0] == 30).all()
    assert body.dt == pytest.approx(0.1)
    np.testing.assert_array_equal(
        body.model.geom_solimp[:, :3], [[0.8, 0.8, 0.01]] * body.model.ngeom
    )


def ball_at_target(inner: Any) -> np.ndarray:
    positions = inner.init_qpos.copy()
    way = inner.model.site("target").pos - inner.model.body("Object").pos
    positions[[inner.model.joint(f"OBJT{axis}").qposadr[0] for axis in "xyz"]] = way
    return positions


@pytest.mark.parametrize("family", ["pen", "hammer", "door", "relocate"])
def test_adroits_rewards_differ_from_gymnasium_robotics_in_the_reach_alone(family: str) -> None:
    """D4RL penalises the distance of palm and object; gymnasium-robotics 1.4.2 rewards it."""
    part = {"hammer": (33, 36), "door": (35, 38), "relocate": (30, 33)}.get(family)
    rng = np.random.default_rng(0)
    inner = task(family)
    made(family).reset(seed=0)
    if family == "relocate":  # lifted, and near its target
        inner.unwrapped.set_state(ball_at_target(inner.unwrapped), inner.unwrapped.init_qvel)
    for _ in range(15):
        action = rng.uniform(-1, 1, inner.action_space.shape)
        theirs = inner.env.step(action)[1]
        observation = inner.unwrapped._get_obs()
        mine, _ = inner.judge(observation, inner.unwrapped.data)
        expected = theirs
        if part:
            reach = observation[part[0] : part[1]]
            other = observation[36:39] if family == "hammer" else 0.0
            expected = theirs - 0.2 * np.linalg.norm(reach - other)
        assert mine == pytest.approx(expected, abs=1e-9)


def test_a_fallen_pen_ends_the_episode() -> None:
    made("pen").reset(seed=0)
    inner: Any = made("pen").unwrapped
    positions = inner.init_qpos.copy()
    positions[inner.model.joint("OBJTx").qposadr[0]] = 0.3  # the pen's own x points down
    inner.set_state(positions, inner.init_qvel)
    observation, reward, terminated, *_ = made("pen").step(np.zeros(24))
    assert observation[26] < 0.075
    assert terminated
    assert reward < -4


@pytest.mark.parametrize(
    ("family", "joint", "settings", "bonuses"),
    [
        ("pen", "OBJRx", [0.0, 0.4, 0.5], [60, 10, 0]),
        ("hammer", "nail_dir", [0.085, 0.075, 0.05], [100, 25, 0]),
        ("door", "door_hinge", [1.4, 1.2, 0.5, 0.1], [20, 10, 2, 0]),
        ("relocate", "OBJTx", [0.03, 0.08, 0.2], [31, 11, 1]),
    ],
)
def test_adroits_bonuses_come_at_d4rls_thresholds(
    family: str, joint: str, settings: list[float], bonuses: list[int]
) -> None:
    """Thresholds of the bonuses.

    Cosine of pen and target above 0.95 and 0.9; nail within 0.01 and 0.02 of its goal; door opened
    by 1.35, 1.0 and 0.2; ball within 0.05 and 0.1 of its target, and off the table.
    """
    made(family).reset(seed=0)
    inner: Any = task(family).unwrapped
    rest = inner.init_qpos.copy()
    if family == "pen":
        inner.model.body("target").quat = inner.model.body("Object").quat
    if family == "relocate":
        rest = ball_at_target(inner)
    for setting, bonus in zip(settings, bonuses, strict=True):
        positions = rest.copy()
        positions[inner.model.joint(joint).qposadr[0]] += setting
        inner.set_state(positions, inner.init_qvel)
        reward, ended = task(family).judge(inner._get_obs(), inner.data)
        assert bonus - 2.5 < reward <= bonus + 1.01
        assert not ended


def test_every_stand_in_says_how_it_differs() -> None:
    for family in FAMILIES:
        env_id = str(envs.FACTS[family].env_id)
        versions, *differences = envs.environment_notes(env_id)
        assert "gymnasium-robotics" in versions
        assert differences == list(envs.FACTS[family].differences)
        assert differences
