"""Tests of Reacher2d against the original (kzl/decision-transformer, .../envs)."""

import numpy as np
import pytest

from decision_seq.envs import FACTS, Environments, make
from decision_seq.envs.reacher2d import REACH


@pytest.fixture(scope="module")
def env():
    return make("Reacher2d-v0")


def test_sizes_and_limit_are_those_of_the_task(env) -> None:
    facts = FACTS["reacher2d"]
    assert Environments("Reacher2d-v0", 1).sizes == ((12,), 2)
    assert facts.sizes == (12, 2)
    assert env.spec.max_episode_steps == facts.max_episode_steps == 100
    np.testing.assert_array_equal(env.action_space.high, [1, 1])
    assert env.unwrapped.dt == pytest.approx(0.15)


def test_starts_and_targets_are_drawn_as_the_original_draws_them(env) -> None:
    starts = np.array([env.reset(seed=seed)[0] for seed in range(300)])
    angles = np.arctan2(starts[:, :2], starts[:, 2:4])
    assert np.abs(angles).max() <= 2
    assert np.abs(angles).max() > 1.9
    radius = np.linalg.norm(starts[:, 8:10], axis=1)
    assert radius.min() >= 0.5
    assert radius.max() <= 1.0
    assert radius.max() > 0.97
    np.testing.assert_array_equal(starts[:, 4:6], 0)


def test_an_observation_is_what_it_says(env) -> None:
    """The fingertip is computed by trigonometry, with links of 0.6 and 0.4."""
    observation, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        observation, _, terminated, _, _ = env.step(rng.uniform(-1, 1, 2))
        first, second = env.unwrapped.data.qpos
        both = first + second
        tip = [
            0.6 * np.cos(first) + 0.4 * np.cos(both),
            0.6 * np.sin(first) + 0.4 * np.sin(both),
        ]
        np.testing.assert_allclose(observation[6:8], tip, atol=1e-9)
        np.testing.assert_allclose(observation[:2], np.sin([first, second]))
        np.testing.assert_allclose(observation[2:4], np.cos([first, second]))
        np.testing.assert_allclose(observation[4:6], 0.15 * env.unwrapped.data.qvel)
        np.testing.assert_allclose(observation[10:], observation[6:8] - observation[8:10])
        assert -2.05 <= second <= 3.55
        assert not terminated


def test_the_reward_is_one_within_a_tenth_of_the_target(env) -> None:
    assert REACH == 0.1
    for offset, expected in (((0.09, 0.0), 1.0), ((0.11, 0.0), 0.0), ((0.06, 0.06), 0.0)):
        env.reset(seed=0)
        inner = env.unwrapped
        tip = inner.data.body("fingertip").xpos[:2].copy()
        inner.data.mocap_pos[0, :2] = tip + offset
        _, reward, *_ = env.step(np.zeros(2))
        assert reward == expected


def test_an_episode_lasts_a_hundred_steps(env) -> None:
    env.reset(seed=0)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]
