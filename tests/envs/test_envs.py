import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decision_seq import envs
from decision_seq.types import UserError


def test_normalized_score_of_the_references_is_0_and_100() -> None:
    for name, facts in envs.FACTS.items():
        if facts.reference_scores is None:
            assert name == "reacher2d"
            continue
        low, high = facts.reference_scores
        assert envs.normalized_score(name, low) == pytest.approx(0)
        assert envs.normalized_score(name, high) == pytest.approx(100)


def test_the_talks_targets_in_normalized_score() -> None:
    """DT's targets for hopper, 3600 and 1800, are 111.2 and 55.9 when normalized."""
    assert envs.normalized_score("hopper-medium-v2", 3600) == pytest.approx(111.2, abs=0.05)
    assert envs.normalized_score("hopper-medium-v2", 1800) == pytest.approx(55.9, abs=0.05)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("hopper_medium-v2.hdf5", "hopper"),
        ("Hopper-v4", "hopper"),
        ("HalfCheetah-v5", "halfcheetah"),
        ("antmaze-umaze-v0", "antmaze-umaze"),
        ("antmaze-large-play-v2", "antmaze-large"),
        ("antmaze-ultra-play-v0", "antmaze"),
        ("ant-medium-v2", "ant"),
        ("maze2d-umaze-dense-v1", "maze2d-umaze-dense"),
    ],
)
def test_family_by_name(name: str, family: str) -> None:
    found = envs.facts_by_name(name)
    assert found is not None
    assert found[0] == family


def test_unknown_names_have_no_family() -> None:
    assert envs.facts_by_name("hopperish") is None


def test_unknown_environment_is_named() -> None:
    with pytest.raises(UserError, match="Hoper-v4"):
        envs.make("Hoper-v4")


def test_an_id_carries_its_keyword_arguments() -> None:
    """D4RL's ant has 111 observations; 84 are contact forces, which Ant-v4 omits by default."""
    assert envs.Environments("Ant-v4", 1).sizes == ((27,), 8)
    ant = envs.Environments('Ant-v4?{"use_contact_forces": true}', 1)
    assert ant.sizes == ((111,), 8)
    assert ant.env_id == envs.FACTS["ant"].env_id
    found = envs.facts_by_name(ant.env_id)
    assert found is not None
    assert found[0] == "ant"
    notes = envs.environment_notes(ant.env_id)
    assert any("Gymnasium -v4" in note for note in notes)
    assert any("contact forces" in note for note in notes)


@pytest.mark.parametrize(
    ("behind", "complaint"),
    [(text, "JSON object") for text in ("{", "use_contact_forces", "[1]", "3", "")]
    + [('{"contacts": true}', "contacts")],
)
def test_what_follows_the_question_mark_must_be_known_keyword_arguments(
    behind: str, complaint: str
) -> None:
    with pytest.raises(UserError, match=rf"Ant-v4\?.*{complaint}") as caught:
        envs.make(f"Ant-v4?{behind}")
    assert "\n" not in str(caught.value)


def test_a_dictionary_of_observations_becomes_one_vector_in_the_order_of_its_keys() -> None:
    env = envs.make('PointMaze_UMaze-v3?{"max_episode_steps": 7}')
    assert env.observation_space.shape == (8,)
    assert envs.Environments("PointMaze_UMaze-v3", 1).sizes == ((8,), 2)
    observation, _ = env.reset(seed=3)
    entries, _ = env.env.reset(seed=3)
    np.testing.assert_array_equal(
        observation,
        np.concatenate([entries[k] for k in ("achieved_goal", "desired_goal", "observation")]),
    )
    ended = [env.step(np.zeros(2))[3] for _ in range(7)]
    assert ended == [False] * 6 + [True]


def test_a_missing_extra_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "robotics" in name else find(name)
    )
    for env_id in ("AdroitHandPen-v1", "d4rl/pen-v0", 'PointMaze_UMaze-v3?{"a": 1}'):
        with pytest.raises(UserError, match=r"pip install 'decision-seq\[robotics\]'"):
            envs.make(env_id)
        assert "robotics" in str(envs.obstacle(env_id, None))
    assert envs.obstacle("Hopper-v4", "hopper") is None
    with pytest.raises(UserError, match="Hoper-v4"):
        envs.make("Hoper-v4")


def test_gymnasium_robotics_is_quiet_and_loaded_only_where_it_is_needed() -> None:
    code = (
        "import sys; from decision_seq import envs; envs.make('Hopper-v4');"
        "assert 'gymnasium_robotics' not in sys.modules;"
        "from decision_seq.datasets.minari.files import registered;"
        "assert registered('AdroitHandPen-v1');"
        "envs.make('d4rl/door-v0'); envs.make('AdroitHandPen-v1')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


def test_an_environment_that_its_simulator_refuses_is_a_user_error() -> None:
    with pytest.raises(UserError, match="FrankaKitchen-v1"):
        envs.make("FrankaKitchen-v1")


def test_environments_step_exactly_the_running_ones_with_their_own_seeds() -> None:
    together = envs.Environments("Hopper-v4", 3)
    observations = together.reset([5, 6, 5])
    np.testing.assert_array_equal(observations[0], observations[2])
    assert (observations[0] != observations[1]).any()
    alone = envs.make("Hopper-v4")
    alone.reset(seed=6)
    rng = np.random.default_rng(0)
    steps = 0
    while together.running[1]:
        action = rng.uniform(-1, 1, 3)
        rows = np.flatnonzero(together.running)
        following, rewards, _, _ = together.step(rows, np.tile(action, (len(rows), 1)))
        expected, reward, *_ = alone.step(action)
        where = list(rows).index(1)
        np.testing.assert_array_equal(following[where], expected)
        assert rewards[where] == reward
        steps += 1
    assert steps > 1
    assert not together.running[1]


@pytest.mark.skipif(importlib.util.find_spec("d4rl") is None, reason="d4rl is not installed")
def test_reference_scores_equal_d4rls_own_table() -> None:
    """D4RL's infos.py is loaded as a file, as importing the package fails without mujoco-py."""
    package = importlib.util.find_spec("d4rl")
    assert package is not None
    infos = runpy.run_path(str(Path(str(package.origin)).with_name("infos.py")))
    # Families not supported here, and Maze2D's deprecated v0 and evaluation mazes.
    other = re.compile("bullet|flow|carla|maze2d-eval|maze2d-(umaze|medium|large)-v0")
    names = [name for name in infos["REF_MIN_SCORE"] if not other.match(name)]
    assert len(names) > 100
    for name in names:
        found = envs.facts_by_name(name)
        assert found is not None, name
        expected = infos["REF_MIN_SCORE"][name], infos["REF_MAX_SCORE"][name]
        assert found[1].reference_scores == pytest.approx(expected), name


def test_a_choice_of_actions_has_a_size_too() -> None:
    environments = envs.Environments("CartPole-v1", 2)
    assert environments.sizes == ((4,), 2)
    observations = environments.reset([0, 1])
    following, rewards, *_ = environments.step(np.arange(2), np.array([0, 1]))
    assert following.shape == observations.shape == (2, 4)
    assert rewards.tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match="CartPole-v1 takes a choice"):
        environments.step(np.arange(2), np.zeros((2, 2)))
    environments.close()
