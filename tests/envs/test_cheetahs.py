"""Tests of the cheetah tasks: rewards recomputed from the simulation, ids, sizes, time limits."""

import numpy as np
import pytest

from decision_seq.envs import Environments, make
from decision_seq.envs.cheetahs import VELOCITIES
from decision_seq.types import UserError

DT = 0.05  # seconds per step


def steps(env_id: str, seed: int = 3, count: int = 30):
    """Random steps as (position before, action, observation, reward, position after)."""
    env = make(env_id)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        before = env.unwrapped.data.qpos.copy()
        action = rng.uniform(-1, 1, 6)
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not terminated
        assert not truncated
        yield before, action, observation, reward, env.unwrapped.data.qpos.copy()
    env.close()


@pytest.mark.parametrize(
    ("env_id", "velocity"),
    [
        ("CheetahVel0.0-v0", 0.0),
        ("CheetahVel2.3-v0", 2.3),
        ('CheetahVel-v0?{"velocity": -0.55}', -0.55),
    ],
)
def test_a_velocity_is_asked_for(env_id: str, velocity: float) -> None:
    for before, action, observation, reward, after in steps(env_id):
        moved = (after[0] - before[0]) / DT
        assert reward == pytest.approx(-abs(moved - velocity) - 0.05 * (action**2).sum())
        assert observation.shape == (20,)
        np.testing.assert_array_equal(observation[:8], after[1:])
        # the torso's root slides by qpos[0] and qpos[1]; the simulator's body position is from
        # the last substep of a step
        assert observation[17] == pytest.approx(after[0], abs=0.1)
        assert observation[18] == 0
        assert observation[19] == pytest.approx(0.7 + after[1], abs=0.1)


def test_a_backflip_is_asked_for() -> None:
    jumped = 0.0
    for before, action, observation, reward, after in steps("BackflipCheetah-v0"):
        along, up = np.abs(after[:2] - before[:2]) / DT
        assert reward == pytest.approx(along + up - 0.1 * (action**2).sum())
        assert observation.shape == (17,)
        jumped = max(jumped, up)
    assert jumped > 0.1


def test_registered_ids() -> None:
    assert len(VELOCITIES) == 31
    for velocity in VELOCITIES:
        env = make(f"CheetahVel{velocity}-v0")
        assert env.unwrapped.velocity == velocity
        assert env.spec.max_episode_steps == 200
        env.close()
    environments = Environments("BackflipCheetah-v0", 1)
    assert environments.sizes == ((17,), 6)
    assert environments.max_episode_steps == 1000
    environments.close()
    with pytest.raises(UserError, match=r"CheetahVel3\.1"):
        make("CheetahVel3.1-v0")


def test_the_same_seed_is_the_same_episode() -> None:
    def trajectory() -> list[float]:
        return [reward for *_, reward, _ in steps("CheetahVel1.0-v0", 7, 5)]

    assert trajectory() == trajectory()


@pytest.mark.filterwarnings("ignore:.*A Box observation space")  # unbounded, as HalfCheetah's
def test_gymnasium_has_no_objections() -> None:
    from gymnasium.utils.env_checker import check_env

    for env_id in ("CheetahVel1.0-v0", "BackflipCheetah-v0"):
        env = make(env_id)
        check_env(env.unwrapped, skip_render_check=True)
        env.close()
