"""Tests of rewards, values and goals as labels, and of rollouts, which receive only goals."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from decision_seq.config import load, to_tree
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.sequences.conditioning import Conditioning, label
from decision_seq.sequences.conditioning.outcome import GoalOutcome, Outcome, values
from decision_seq.types import Transition, UserError
from tests.conftest import OBSERVATION, make_episode


def plain_values(rewards: np.ndarray, discount: float) -> list[float]:
    """The definition: the discounted sum of the rewards after each step."""
    return [
        sum(discount**k * float(r) for k, r in enumerate(rewards[t + 1 :]))
        for t in range(len(rewards))
    ]


def test_values_begin_at_the_next_reward() -> None:
    assert values(np.array([1.0, 2.0, 3.0]), 0.99) == pytest.approx([4.97, 3.0, 0.0])
    assert values(np.array([5.0]), 0.99).tolist() == [0.0]


@pytest.mark.parametrize("discount", [1.0, 0.99, 0.5, 1e-3])
def test_values_are_the_definitions(discount: float) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 7, 300):
        rewards = rng.normal(1, 10, length).astype(np.float32)
        expected = plain_values(rewards, discount)
        np.testing.assert_allclose(values(rewards, discount), expected, rtol=1e-12, atol=1e-12)


def test_a_long_episode_loses_no_precision() -> None:
    """discount^T underflows here; the value of a constant reward is known."""
    found = values(np.ones(200_000), 0.9)
    left = np.arange(200_000)[::-1]
    np.testing.assert_allclose(found, (1 - 0.9**left) / 0.1, rtol=1e-12)


def test_a_stores_labels_are_those_of_its_episodes(store: EpisodeStore) -> None:
    for penalty in (None, -100.0):
        conditioning = Outcome(0.9, penalty)
        column = label(store, conditioning).array
        assert column.shape == (store.num_transitions, 2)
        assert column.dtype == np.float32
        for index, episode in enumerate(store.episodes()):
            rows = slice(store.offsets[index], store.offsets[index + 1])
            rewards = np.array(episode.rewards)
            if episode.terminated and penalty is not None:
                rewards[-1] = penalty
            np.testing.assert_allclose(column[rows, 0], rewards, rtol=1e-6)
            np.testing.assert_allclose(column[rows, 1], plain_values(rewards, 0.9), rtol=1e-5)
            np.testing.assert_array_equal(column[rows], conditioning.relabel(episode))


def test_a_time_limit_is_not_penalised() -> None:
    """Data without an end are not penalised either, and the given rewards are not modified."""
    episode = make_episode(5, 0, terminated=True)
    before = episode.rewards.copy()
    punished = Outcome(1.0, -100.0).relabel(episode)
    assert punished[-1, 0] == -100
    assert punished[0, 1] == pytest.approx(before[1:-1].sum() - 100)
    for truncated in (True, False):
        other = replace(episode, terminated=False, truncated=truncated)
        np.testing.assert_array_equal(Outcome(1.0, -100.0).relabel(other)[:, 0], before)
    np.testing.assert_array_equal(episode.rewards, before)


def with_final(store: EpisodeStore, tmp_path, final: bool) -> EpisodeStore:
    """The same episodes, with or without the final observation of each."""
    with StoreWriter(tmp_path / f"final-{final}") as writer:
        for episode in store.episodes():
            steps = len(episode) + final
            writer.append(replace(episode, observations=episode.observations[:steps]))
        return writer.finish(
            "goals",
            {"kind": "test", "description": "goals"},
            **{
                key: store.header[key]
                for key in ("env_id", "family", "max_episode_steps", "transitions_in")
            },
            has_timeouts=True,
        )


@pytest.mark.parametrize("final", [True, False])
def test_the_goal_is_where_the_episode_ended(store: EpisodeStore, tmp_path, final: bool) -> None:
    store = with_final(store, tmp_path, final)
    assert ("final_observations" in store.columns) is final
    conditioning = GoalOutcome(0.9, -1.0).resolved(store)
    column = label(store, conditioning).array
    assert column.shape == (store.num_transitions, 2 + OBSERVATION)
    np.testing.assert_array_equal(column[:, :2], label(store, Outcome(0.9, -1.0)).array)
    for index, episode in enumerate(store.episodes()):
        rows = slice(store.offsets[index], store.offsets[index + 1])
        np.testing.assert_array_equal(column[rows], conditioning.relabel(episode))
        assert (column[rows, 2:] == episode.observations[-1]).all()
    best = store.episode(int(np.argmax(store.returns)))
    assert conditioning.goal == tuple(map(float, best.observations[-1]))


def test_a_rollout_is_asked_for_nothing_and_shown_the_goal_alone(store: EpisodeStore) -> None:
    goal = tuple(float(number) for number in range(OBSERVATION))
    step = Transition(*(np.ones((3, 1)) for _ in range(4)))
    for conditioning, shown in (
        (Outcome(), [0, 0]),
        (GoalOutcome(goal=goal).resolved(store), [0, 0, *goal]),
    ):
        assert not conditioning.asks
        assert conditioning.discount == 0.99
        first = conditioning.prompt(np.array([1.0, np.nan, 3.0]))
        second = conditioning.advance(first, np.ones(3), step, np.zeros(3))
        for found in (first, second):
            assert found.dtype == np.float32
            assert found.tolist() == [shown] * 3


def test_the_configuration_comes_back_from_its_text(store: EpisodeStore) -> None:
    for conditioning in (Outcome(0.5, -3.0), GoalOutcome().resolved(store)):
        tree = {"name": conditioning.get_choice_name(type(conditioning)), **to_tree(conditioning)}
        assert load(Conditioning, tree) == conditioning


def test_what_cannot_be_is_one_line(
    store: EpisodeStore, make_frame_store: Callable[..., EpisodeStore]
) -> None:
    for discount in (0.0, 1.01, float("nan")):
        with pytest.raises(UserError, match="discount"):
            Outcome(discount)
    with pytest.raises(UserError, match="termination_penalty"):
        Outcome(termination_penalty=float("inf"))
    with pytest.raises(UserError, match="must be a finite float32"):
        Outcome(termination_penalty=1e300)
    with pytest.raises(UserError, match="more than a float32"):
        GoalOutcome(goal=(1.0, -1e39))
    with pytest.raises(UserError, match="goal"):
        GoalOutcome(goal=(1.0, float("nan")))
    with pytest.raises(UserError, match="goal has 2 numbers, an observation of the data has 11"):
        GoalOutcome(goal=(1.0, 2.0)).resolved(store)
    with pytest.raises(UserError, match="vector observations"):
        GoalOutcome().resolved(make_frame_store())
    with pytest.raises(ValueError, match="not resolved"):
        GoalOutcome().size  # noqa: B018
    with pytest.raises(ValueError, match="not resolved"):
        GoalOutcome().prompt(np.zeros(1))


def test_frames_are_not_decoded_for_it(
    make_frame_store: Callable[..., EpisodeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_frame_store()
    monkeypatch.setattr(type(store), "episode", None)  # this would decode them
    assert label(store, Outcome()).array.shape == (store.num_transitions, 2)
