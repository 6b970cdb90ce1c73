"""Tests of features: equal in the data and in rollouts, and their sums as labels."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from decision_seq.config import load, to_tree
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import FACTS, Environments
from decision_seq.sequences.conditioning import Conditioning, ReturnToGo, label
from decision_seq.sequences.conditioning.features import Featured, FeatureToGo, feature_name
from decision_seq.types import Episode, Transition, UserError


def steps_of(episode: Episode) -> list[Transition]:
    """The episode as the transitions of a rollout with one environment."""
    following = np.concatenate([episode.observations[1:], episode.observations[-1:]])
    return [
        Transition(
            episode.observations[t : t + 1],
            episode.actions[t : t + 1],
            episode.rewards[t : t + 1],
            following[t : t + 1],
        )
        for t in range(len(episode))
    ]


@pytest.mark.parametrize("name", ["reward", "x_velocity", 3])
def test_a_rollout_and_the_data_count_the_same(store: EpisodeStore, name: int | str) -> None:
    """A step's feature is from the observation before its action."""
    featured = Featured(name).found_in(store)
    column = featured.of_store(store)
    assert column.shape == (store.num_transitions,)
    for index, episode in enumerate(store.episodes()):
        rows = slice(store.offsets[index], store.offsets[index + 1])
        stepwise = [featured.of_transition(step)[0] for step in steps_of(episode)]
        np.testing.assert_array_equal(featured.of_episode(episode), stepwise)
        np.testing.assert_array_equal(column[rows], stepwise)
    assert column.dtype == featured.of_episode(episode).dtype == np.float64
    if name == "x_velocity":  # the store has hopper's sizes
        np.testing.assert_array_equal(column, store.columns["observations"].array[:, 5])


@pytest.mark.parametrize("family", ["halfcheetah", "hopper", "walker2d"])
def test_the_velocity_is_where_it_is_said_to_be(family: str) -> None:
    """Compare with the simulator's own velocity along x after a few steps."""
    facts = FACTS[family]
    environments = Environments(str(facts.env_id), 1)
    environments.reset([3])
    action = np.full((1, facts.sizes[1]), 0.7, np.float32)
    for _ in range(5):
        observation = environments.step(np.array([0]), action)[0][0]
    assert observation[facts.velocity] == environments.envs[0].unwrapped.data.qvel[0] != 0
    environments.close()


def test_the_sum_to_go_is_the_return_to_go_of_another_feature(store: EpisodeStore) -> None:
    conditioning = FeatureToGo(feature=5).resolved(store)
    column = label(store, conditioning).array
    rewarded = FeatureToGo(10.0).resolved(store)
    np.testing.assert_array_equal(
        label(store, rewarded).array, label(store, ReturnToGo(10.0)).array
    )
    for index, episode in enumerate(store.episodes()):
        rows = slice(store.offsets[index], store.offsets[index + 1])
        values = episode.observations[: len(episode), 5].astype(np.float64)
        plain = [values[t:].sum() / 1000 for t in range(len(values))]
        np.testing.assert_allclose(column[rows, 0], plain, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(column[rows], conditioning.relabel(episode))


def test_a_rollout_counts_down_from_the_best_episodes_sum(store: EpisodeStore) -> None:
    """It takes no target return, and retraces the labels when it repeats the episode."""
    conditioning = FeatureToGo(feature="x_velocity").resolved(store)
    best = store.episode(int(store.returns.argmax()))
    labels, asked = conditioning.relabel(best), np.array([np.nan])
    assert not conditioning.asks
    condition = conditioning.prompt(asked)
    for t, step in enumerate(steps_of(best)):
        np.testing.assert_allclose(condition[0], labels[t], atol=1e-5)
        condition = conditioning.advance(condition, asked, step, np.array([t]))
    assert abs(condition[0, 0]) < 1e-5
    given = FeatureToGo(feature="x_velocity", target=-50.0).resolved(store)
    assert given.prompt(asked).tolist() == [[np.float32(-0.05)]]
    label(store, conditioning)
    label(store, given)  # another target needs no other labels
    assert len(list(store.path.glob("conditions-*.npy"))) == 1


def test_the_configuration_comes_back_from_its_text(store: EpisodeStore) -> None:
    for conditioning in (FeatureToGo(feature="x_velocity"), FeatureToGo(feature=2).resolved(store)):
        tree = {"name": "feature", **to_tree(conditioning)}
        assert load(Conditioning, tree) == conditioning


def test_what_cannot_be_is_one_line(
    store: EpisodeStore, make_frame_store: Callable[..., EpisodeStore]
) -> None:
    for feature in (11, -1):
        with pytest.raises(UserError, match=f"feature {feature} is no dimension"):
            FeatureToGo(feature=feature).resolved(store)
    with pytest.raises(UserError, match="'speed' is unknown"):
        FeatureToGo(feature="speed").resolved(store)
    frames = make_frame_store()
    with pytest.raises(UserError, match="no dimension of observations of shape"):
        FeatureToGo(feature=0).resolved(frames)
    with pytest.raises(UserError, match="x_velocity; give its number"):
        FeatureToGo(feature="x_velocity").resolved(frames)
    with pytest.raises(UserError, match=r"conditioning\.target inf"):
        FeatureToGo(target=float("inf"))
    with pytest.raises(UserError, match=r"conditioning\.scale"):
        FeatureToGo(scale=0.0)
    unresolved = FeatureToGo(feature="x_velocity")
    for use in (unresolved.prompt, lambda _: unresolved.relabel(store.episode(0))):
        with pytest.raises(ValueError, match="not resolved"):
            use(np.zeros(1))


def test_frames_are_not_decoded_for_rewards(
    make_frame_store: Callable[..., EpisodeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_frame_store()
    conditioning = replace(FeatureToGo(1.0), target=0.0).resolved(store)
    monkeypatch.setattr(type(store), "episode", None)  # this would decode them
    assert label(store, conditioning).array.shape == (store.num_transitions, 1)


def test_features_have_names() -> None:
    assert feature_name("reward", "hopper") == "reward"
    assert feature_name(5, "hopper") == "x_velocity (observation 5)"
    assert feature_name(5, "walker2d") == feature_name(5, None) == "observation 5"
