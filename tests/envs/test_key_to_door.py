"""Tests of Key-to-Door against its rules, and of its calibration by a random walk."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decision_seq import config, envs
from decision_seq.envs.key_to_door import ROOMS, STEPS, KeyToDoor
from decision_seq.recipes import recipe_of, recipe_trees, table_path
from decision_seq.report.published import published
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config, prepare, trained_episodes
from decision_seq.sweep.grid import read_grid
from decision_seq.types import UserError
from tests.conftest import Lines

NORTH, SOUTH, WEST, EAST = range(4)
FLOOR, WALL, KEY, DOOR = range(4)
WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1))
KINDS = ("dt", "bc")  # recipes
Cell = tuple[int, int]


def chance(room: tuple[int, int], start: Cell, goal: Cell, steps: int) -> float:
    """Probability that a uniform random walk reaches the goal in time, by dynamic programming."""
    inside = [(row, column) for row in range(room[0]) for column in range(room[1])]
    comes = dict.fromkeys(inside, 0.0) | {goal: 1.0}
    for _ in range(steps):
        before = dict(comes)
        for cell in set(inside) - {goal}:
            nexts = [(cell[0] + down, cell[1] + right) for down, right in WAYS]
            comes[cell] = sum(before[n if n in before else cell] for n in nexts) / 4
    return comes[start]


def succeeds(rooms: Any = ROOMS, steps: Any = STEPS) -> float:
    """Success rate of the random walk: the key within room 1's time, the door within room 3's."""
    height, width = rooms[0]
    columns, half = range(width), height // 2
    keys = [(row, column) for row in range(half) for column in columns]
    starts = [(row, column) for row in range(height - half, height) for column in columns]
    key = np.mean([chance(rooms[0], start, key, steps[0]) for start in starts for key in keys])
    height, width = rooms[2]
    door = chance(rooms[2], (height // 2, width // 2), (-1, width // 2), steps[2])
    return float(key * door)


def made(**options: Any) -> KeyToDoor:
    return envs.make("KeyToDoor-v0", **options).unwrapped


def walks(env: KeyToDoor, episodes: int) -> list[bool]:
    """Success of each of `episodes` random walks, which ignore observations."""
    found, rng = [], np.random.default_rng(1)
    env._observe = lambda: None
    env.reset(seed=0)
    for _ in range(episodes):
        env.reset()
        for action in rng.integers(4, size=int(env.ends[-1])).tolist():
            _, reward, over, _, _ = env.step(action)
            if over:
                break
        found.append(reward == 1)
    return found


def seen(observation: np.ndarray, view: int = 5) -> tuple[np.ndarray, int]:
    """Contents of the cells in view, [view, view], and the room's number."""
    cells = observation[:-3].reshape(view, view, 4)
    assert (cells.sum(-1) == 1).all()
    assert observation[-3:].sum() == 1
    return cells.argmax(-1), int(observation[-3:].argmax()) + 1


def towards(cells: np.ndarray, what: int) -> Iterable[int]:
    """Steps from the middle of the view to a cell with content `what`, sideways first."""
    row, column = np.argwhere(cells == what)[0] - len(cells) // 2
    yield from [EAST if column > 0 else WEST] * abs(column)
    yield from [SOUTH if row > 0 else NORTH] * abs(row)


def play(env: KeyToDoor, observation: np.ndarray, actions: Iterable[int]) -> tuple[Any, ...]:
    """Result of the last step; only the given observation where there are no actions."""
    result: tuple[Any, ...] = (observation, 0.0, False, False, {})
    for action in actions:
        result = env.step(action)
    return result


def through_rooms_1_and_2(env: KeyToDoor, seed: int, take: bool) -> np.ndarray:
    """Walk to room 3, with or without the key -> its first observation."""
    observation, info = env.reset(seed=seed)
    assert info == {"key": False, "phase": 1}
    way = list(towards(seen(observation)[0], KEY)) if take else []
    rest = [SOUTH] * (STEPS[0] - len(way))  # from the key downwards; there is no other key
    observation, _, _, _, info = play(env, observation, way + rest)
    assert info == {"key": take, "phase": 2}
    observation, _, _, _, info = play(env, observation, [WEST] * STEPS[1])
    assert info == {"key": take, "phase": 3}
    return observation


def test_the_random_walk_succeeds_as_often_as_is_computed() -> None:
    """The aim was 2 to 5 %; the paper reports 3.1 % for its environment."""
    exact = succeeds()
    assert 0.02 < exact < 0.05
    assert exact == pytest.approx(0.031, abs=0.0005)
    found = np.mean(walks(made(), 10_000))
    assert 0.02 < found < 0.05
    assert abs(found - exact) < 4 * (exact * (1 - exact) / 10_000) ** 0.5


def test_other_rooms_and_times_are_as_likely_as_is_computed() -> None:
    rooms, steps = ((3, 4), (1, 1), (2, 5)), (9, 2, 11)
    exact = succeeds(rooms, steps)
    found = np.mean(walks(made(rooms=rooms, steps=steps, view=3), 3000))
    assert abs(found - exact) < 4 * (exact * (1 - exact) / 3000) ** 0.5


def test_the_distractor_lasts_longer_than_the_rest() -> None:
    assert STEPS[1] > STEPS[0] + STEPS[2]
    assert 25 <= sum(STEPS) <= 40
    assert envs.FACTS["key-to-door"].max_episode_steps == sum(STEPS)


def test_starts_and_keys_are_drawn_from_their_halves_alike() -> None:
    env = made(rooms=((5, 2), (3, 3), (3, 3)), steps=(9, 9, 9), view=11)
    places: Counter[tuple[Cell, Cell]] = Counter()
    for seed in range(1600):
        cells, _ = seen(env.reset(seed=seed)[0], 11)
        corner = np.argwhere(cells == FLOOR).min(0)  # the view covers the whole room
        key = np.argwhere(cells == KEY)[0]
        corner = np.minimum(corner, key)
        places[tuple(key - corner), tuple((5, 5) - corner)] += 1
    keys = [(row, column) for row in (0, 1) for column in (0, 1)]
    starts = [(row, column) for row in (3, 4) for column in (0, 1)]
    assert places.keys() == {(key, start) for key in keys for start in starts}
    assert min(places.values()) > 60  # of 100 expected each
    assert max(places.values()) < 140


def test_an_observation_is_what_surrounds_the_player() -> None:
    env = made()
    observation, _ = env.reset(seed=2)
    assert observation.shape == (103,)
    assert observation.dtype == np.float32
    cells, room = seen(observation)
    assert room == 1
    assert (cells == KEY).sum() == 1
    assert (cells != WALL).sum() == 6  # the whole room of 2 x 3 is in view
    assert cells[2, 2] == FLOOR
    following, *_ = env.step(NORTH)
    np.testing.assert_array_equal(seen(following)[0][1:], cells[:-1])


def test_a_wall_is_not_walked_into() -> None:
    env = made()
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        before, (observation, *_) = observation, env.step(SOUTH)  # the player starts at the bottom
        np.testing.assert_array_equal(observation, before)


def test_the_key_is_taken_by_stepping_on_it_and_then_hidden() -> None:
    env = made()
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        way = list(towards(seen(observation)[0], KEY))
        *_, info = play(env, observation, way[:-1])
        assert not info.get("key")
        observation, reward, over, cut, info = env.step(way[-1])
        assert (reward, over, cut, info["key"]) == (0.0, False, False, True)
        assert KEY not in seen(observation)[0]


def test_the_door_opens_to_who_has_the_key_alone() -> None:
    env = made()
    for seed in range(10):
        for take in (True, False):
            observation = through_rooms_1_and_2(env, seed, take)
            cells, _ = seen(observation)
            way = list(towards(cells, DOOR))
            assert way == [NORTH] * 2
            before, *_ = env.step(way[0])
            observation, reward, over, cut, info = env.step(way[1])
            assert (reward, over, cut) == (float(take), take, False)
            assert info == {"key": take, "phase": 3}
            if not take:
                np.testing.assert_array_equal(observation, before)


def test_nothing_after_room_1_tells_of_the_key() -> None:
    env = made()
    views = []
    for take in (True, False):
        shown = [through_rooms_1_and_2(env, 3, take)]
        shown += [env.step(action)[0] for action in (SOUTH, WEST, EAST)]
        views.append(np.stack(shown))
    np.testing.assert_array_equal(*views)


def test_an_episode_terminates_when_the_time_is_over() -> None:
    env = envs.make("KeyToDoor-v0")
    env.reset(seed=1)
    results = [env.step(SOUTH) for _ in range(sum(STEPS))]
    assert [over for _, _, over, _, _ in results] == [False] * (sum(STEPS) - 1) + [True]
    assert not any(cut for *_, cut, _ in results)
    assert sum(reward for _, reward, *_ in results) == 0
    phases = Counter(info["phase"] for *_, info in results[:-1])
    assert phases == {1: STEPS[0] - 1, 2: STEPS[1], 3: STEPS[2]}


def test_an_episode_is_a_function_of_its_seed() -> None:
    one, other = made(), made()
    starts = [one.reset(seed=seed)[0] for seed in (5, 6, 7, 8)]
    np.testing.assert_array_equal(starts, [other.reset(seed=seed)[0] for seed in (5, 6, 7, 8)])
    assert len(np.unique(starts, axis=0)) > 1


def test_gymnasium_finds_no_fault() -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(made(render_mode="rgb_array"))
    environments = envs.Environments('KeyToDoor-v0?{"view": 7, "steps": [4, 3, 4]}', 2)
    assert environments.discrete
    assert environments.sizes == ((4 * 49 + 3,), 4)


def test_the_task_is_known_by_its_environment() -> None:
    for name in ("KeyToDoor-v0", 'KeyToDoor-v0?{"view": 7}', "key-to-door-1k"):
        found = envs.facts_by_name(name)
        assert found is not None
        assert found[0] == "key-to-door"
    assert envs.normalized_score("key-to-door-1k", 0.25) == 25
    version, difference = envs.environment_notes('KeyToDoor-v0?{"view": 7}')
    assert "mujoco" not in version
    assert "never released" in difference


@pytest.mark.parametrize(
    ("behind", "complaint"),
    [
        ('{"rooms": [[1, 3], [3, 3], [3, 3]]}', "room 1 must be at least 2 high"),
        ('{"rooms": [[2, 3], [3]]}', "rooms .* must be 3 x 2 whole numbers"),
        ('{"rooms": [[2, 3], [3, 3], [3, true]]}', "rooms .* must be 3 x 2 whole numbers"),
        ('{"steps": [4, 0, 4]}', "steps .* from 1 to 1,000"),
        ('{"steps": [4, 1e5, 4]}', "steps .* must be 3 whole numbers"),
        ('{"steps": 4}', "steps 4 must be 3 whole numbers"),
        ('{"view": 4}', "view 4 must be odd"),
        ('{"view": "5"}', "view '5' must be a whole number"),
        ('{"door": 1}', "door"),
    ],
)
def test_wrong_options_are_named(behind: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        envs.make(f"KeyToDoor-v0?{behind}")
    assert "\n" not in str(caught.value)


def test_pictures_have_one_size_and_show_what_there_is() -> None:
    env = made(render_mode="rgb_array", rooms=((2, 3), (3, 5), (3, 3)), steps=(1, 1, 3))
    player, wall, floor = (228, 148, 109), (25, 25, 25), (204, 204, 204)
    key, door = (159, 81, 44), (134, 206, 235)
    env.reset(seed=0)
    shown = [env.render()]
    for action in (SOUTH, SOUTH):
        env.step(action)
        shown.append(env.render())
    things = ({key}, set(), {door})
    for picture, thing in zip(shown, things, strict=True):
        assert picture.shape == (5 * 32, 7 * 32, 3)
        assert picture.dtype == np.uint8
        colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
        assert colours == {player, wall, floor} | thing


def test_its_datasets_have_a_recipe_that_sees_whole_episodes() -> None:
    for name in ("key-to-door-1k", "bundled/key-to-door-10k"):
        assert recipe_of(name) == "dt/key-to-door"
    made, cloned = (config.load(Config, *recipe_trees(f"{kind}/key-to-door")) for kind in KINDS)
    assert made.policy.context_length == sum(STEPS)
    assert made.evaluation.temperature == 0
    # The difference between the two shows the value of the condition.
    assert (made.conditioning.size, cloned.conditioning.size) == (1, 0)
    assert (made.policy, made.train, made.evaluation) == (
        cloned.policy,
        cloned.train,
        cloned.evaluation,
    )


def test_its_table_has_the_papers_rows() -> None:
    runs = read_grid(table_path("key-to-door"))
    assert len(runs) == 2 * 3 * 3
    least = {run.name.split("-seed")[0].split("k-")[1]: run.config.least_return for run in runs}
    assert least == {"dt": None, "bc": None, "bc-success": 1.0}
    said = {e.method: e for e in published() if "key-to-door-1k" in e.scores}
    assert {method: entry.scores["key-to-door-1k"][0] for method, entry in said.items()} == {
        "DT": 71.8,
        "CQL": 13.1,
        "BC": 1.4,
        "BC of the successes (%BC)": 69.9,
        "random walk": 3.1,
    }
    for entry in said.values():
        assert not entry.comparable
        assert "never released" in entry.environment


def test_successes_alone_are_trained_on_and_the_score_is_their_rate(tmp_path: Path) -> None:
    """From a dataset name to a score at a tiny size; `make reproduce` tests what is learnt."""
    asked = {
        "dataset": "key-to-door-1k",
        "collection": {"steps": 3000},
        "least_return": 1.0,
        "train": {"steps": 2, "warmup_steps": 1, "batch_size": 4},
        "evaluation": {"episodes": 4},
    }
    made = config.load(Config, *recipe_trees("bc/key-to-door"), asked)
    finished = experiment.train(made, tmp_path / "run")
    assert finished is not None
    (score,) = finished.scores.targets
    assert score.normalized_score == pytest.approx(100 * np.mean(score.returns))
    assert finished.scores.env_id == "KeyToDoor-v0"
    lines = Lines()
    problem = prepare(made, lines)
    trained = trained_episodes(problem.config, problem.store)
    np.testing.assert_array_equal(trained, problem.store.returns == 1)
    (said,) = [line for line in lines.lines if "trained on" in line]
    assert f"trained on {int(trained.sum())} of the episodes" in said
