from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from decision_seq.datasets.collected.behaviour import Actor, GaussianPolicy, UniformPolicy
from decision_seq.datasets.collected.collection import CHUNK, Size, collect, run_chunk
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import make
from decision_seq.types import UserError

LAYERS = {"fc0": (11, 16), "fc1": (16, 16), "last_fc": (16, 3), "last_fc_log_std": (16, 3)}


@pytest.fixture
def actor() -> GaussianPolicy:
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    layers = {name: (weights(*shape), weights(shape[1])) for name, shape in LAYERS.items()}
    return GaussianPolicy(layers, "tanh", "a test's policy")


def collected(
    folder: Path,
    actors: Sequence[Actor],
    size: Size,
    seed: int = 3,
    workers: int = 1,
    env_id: str = "Hopper-v4",
) -> EpisodeStore:
    source = {"kind": "test", "description": "test"}
    return collect(actors, env_id, size, seed, folder, folder.name, source, workers)


def test_a_collection_is_what_the_environment_did(actor: GaussianPolicy) -> None:
    """Replaying an episode's actions from its seed gives its observations and rewards."""
    episodes = run_chunk(actor, "Hopper-v4", (5, 1), 8, CHUNK)
    assert len(episodes) == CHUNK
    for index in (0, CHUNK - 1):
        episode, env = episodes[index], make("Hopper-v4")
        seed = int(np.random.default_rng([5, 1, 8 + index]).integers(2**31))
        observation, _ = env.reset(seed=seed)
        for t in range(len(episode)):
            np.testing.assert_array_equal(episode.observations[t], observation.astype(np.float32))
            observation, reward, terminated, truncated, _ = env.step(episode.actions[t])
            assert episode.rewards[t] == np.float32(reward)
            assert (terminated or truncated) == (t == len(episode) - 1)
        np.testing.assert_array_equal(episode.observations[-1], observation.astype(np.float32))
        assert (episode.terminated, episode.truncated) == (terminated, truncated)


def test_an_episode_does_not_depend_on_its_company(actor: GaussianPolicy) -> None:
    together = run_chunk(actor, "Hopper-v4", (0, 0), 0, CHUNK)
    alone = run_chunk(actor, "Hopper-v4", (0, 0), 5, 1)
    np.testing.assert_array_equal(together[5].observations, alone[0].observations)
    np.testing.assert_array_equal(together[5].actions, alone[0].actions)
    with pytest.raises(ValueError, match="not of one chunk"):
        run_chunk(actor, "Hopper-v4", (0, 0), 5, CHUNK)


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(
    actor: GaussianPolicy, tmp_path: Path
) -> None:
    one = collected(tmp_path / "one", [actor], Size(1500))
    two = collected(tmp_path / "two", [actor], Size(1500), workers=3)
    other = collected(tmp_path / "other", [actor], Size(1500), seed=4)
    assert one.checksum == two.checksum
    assert one.checksum != other.checksum
    assert 1500 <= one.num_transitions < 2500
    assert one.header["env_id"] == "Hopper-v4"
    one.verify()


@pytest.mark.usefixtures("collect_here")
def test_actors_follow_each_other_and_share_equally(actor: GaussianPolicy, tmp_path: Path) -> None:
    both = collected(tmp_path / "both", [UniformPolicy(), actor], Size(7, "episode"))
    first = collected(tmp_path / "first", [UniformPolicy()], Size(3, "episode"))
    assert both.num_episodes == 7
    for index in range(3):
        np.testing.assert_array_equal(both.episode(index).actions, first.episode(index).actions)
    twice = collected(tmp_path / "twice", [UniformPolicy(), UniformPolicy()], Size(2, "episode"))
    assert (twice.episode(0).observations[0] != twice.episode(1).observations[0]).any()
    assert [Size(10).share(part, 4).count for part in range(4)] == [2, 3, 2, 3]


@pytest.mark.usefixtures("collect_here")
def test_uniform_episodes_are_those_asked_for(tmp_path: Path) -> None:
    assert collected(tmp_path / "a", [UniformPolicy()], Size(19, "episode")).num_episodes == 19
    for count in (100, 300, 500, 700):
        store = collected(tmp_path / str(count), [UniformPolicy()], Size(count))
        assert store.num_transitions - store.lengths[-1] < count <= store.num_transitions


@pytest.mark.usefixtures("collect_here")
def test_choices_are_drawn_uniformly(tmp_path: Path) -> None:
    store = collected(tmp_path / "a", [UniformPolicy()], Size(5000), env_id="CartPole-v1")
    actions = store.columns["actions"].array
    assert (actions.dtype, actions.shape) == (np.int64, (store.num_transitions,))
    assert (store.choices, store.header["max_episode_steps"]) == (2, 500)
    assert abs(actions.mean() - 0.5) < 4 * 0.5 / len(actions) ** 0.5
    same = (actions[1:] == actions[:-1]).mean()  # consecutive choices are independent
    assert abs(same - 0.5) < 4 * 0.5 / len(actions) ** 0.5


def test_a_collection_of_choices_is_what_the_environment_did() -> None:
    (episode,) = run_chunk(UniformPolicy(), "KeyToDoor-v0", (5, 1), 3, 1)
    env = make("KeyToDoor-v0")
    observation, _ = env.reset(seed=int(np.random.default_rng([5, 1, 3]).integers(2**31)))
    for t in range(len(episode)):
        np.testing.assert_array_equal(episode.observations[t], observation)
        observation, reward, terminated, _, _ = env.step(episode.actions[t])
        assert (episode.rewards[t], t == len(episode) - 1) == (reward, terminated)
    np.testing.assert_array_equal(episode.observations[-1], observation)
    assert (episode.terminated, episode.truncated) == (True, False)


def test_choices_stay_what_they_were(tmp_path: Path) -> None:
    """Equal to the checksum of one worker's collection; no simulator or matrix product matters."""
    size, env_id = Size(20, "episode"), "KeyToDoor-v0"
    store = collected(tmp_path / "x", [UniformPolicy()], size, workers=2, env_id=env_id)
    assert store.checksum.startswith("be485be88fc0390d")


def test_what_actors_cannot_act_in_is_refused(actor: GaussianPolicy, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CartPole-v1 takes a choice as an action; a test's policy"):
        collected(tmp_path / "x", [UniformPolicy(), actor], Size(10), env_id="CartPole-v1")
    with pytest.raises(UserError, match=r"shape \(4, 84, 84\); only vectors"):
        collected(tmp_path / "x", [UniformPolicy()], Size(10), env_id="atari/Pong-v0")
    assert not (tmp_path / "x").exists()


def test_a_policy_for_another_environment_is_refused(actor: GaussianPolicy, tmp_path: Path) -> None:
    source = {"kind": "test", "description": "test"}
    with pytest.raises(UserError, match="HalfCheetah-v4 has"):
        collect([actor], "HalfCheetah-v4", Size(10), 0, tmp_path / "x", "x", source, 1)
    with pytest.raises(UserError, match="at least 2"):
        collected(tmp_path / "x", [actor, actor], Size(1))
    assert not (tmp_path / "x").exists()
