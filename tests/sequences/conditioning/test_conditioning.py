import inspect
import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.conditioning import (
    ReturnToGo,
    ShuffledReturnToGo,
    Unconditioned,
    label,
    returns_to_go,
)
from decision_seq.types import Transition, UserError

REWARDS = arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32))


@given(REWARDS)
def test_return_to_go_obeys_its_recursion(rewards: np.ndarray) -> None:
    """Invariant 7: R_t = r_t + R_{t+1}, and the last one is the last reward."""
    to_go = returns_to_go(rewards)
    assert to_go[-1] == rewards[-1]
    np.testing.assert_allclose(to_go[:-1], rewards[:-1] + to_go[1:], rtol=1e-9, atol=1e-9)


def test_a_stores_labels_are_those_of_its_episodes(store: EpisodeStore) -> None:
    conditioning = ReturnToGo(10.0)
    column = label(store, conditioning).array
    assert column.shape == (store.num_transitions, 1)
    for index, episode in enumerate(store.episodes()):
        rows = slice(store.offsets[index], store.offsets[index + 1])
        np.testing.assert_array_equal(column[rows], conditioning.relabel(episode))
        plain = [sum(map(float, episode.rewards[t:])) / 10 for t in range(len(episode))]
        np.testing.assert_allclose(column[rows, 0], plain, rtol=1e-6)


def test_advancing_the_prompt_retraces_the_labels(store: EpisodeStore) -> None:
    """With an episode's return as the target, conditions in evaluation equal those in training."""
    conditioning = ReturnToGo(1000.0)
    for index, episode in enumerate(store.episodes()):
        labels = conditioning.relabel(episode)
        target = np.array([store.returns[index]])
        condition = conditioning.prompt(target)
        for t in range(len(episode)):
            np.testing.assert_allclose(condition[0], labels[t], atol=1e-5)
            step = Transition(
                episode.observations[t : t + 1],
                episode.actions[t : t + 1],
                episode.rewards[t : t + 1],
                episode.observations[t + 1 : t + 2],
            )
            condition = conditioning.advance(condition, target, step, np.array([t]))
        assert abs(condition[0, 0]) < 1e-5


def test_rewards_are_clipped_in_the_data_and_in_a_rollout_alike(
    make_store: Callable[..., EpisodeStore],
) -> None:
    episode = replace(make_store([3]).episode(0), rewards=np.array([4.0, -7.0, 0.5]))
    step = Transition(*(np.zeros((1, 1)),) * 2, np.array([4.0]), np.zeros((1, 1)))
    for clip, labels in ((True, [0.5, -0.5, 0.5]), (False, [-2.5, -6.5, 0.5])):
        conditioning = ReturnToGo(1.0, clip)
        assert conditioning.relabel(episode)[:, 0].tolist() == labels
        first = conditioning.prompt(np.array([labels[0]]))
        second = conditioning.advance(first, np.array([labels[0]]), step, np.array([0]))
        assert second[0, 0] == labels[1]


def test_a_rollout_counts_as_the_data_did(make_store: Callable[..., EpisodeStore]) -> None:
    store = make_store([3])
    assert ReturnToGo(1.0).resolved(store).clip is False
    store.header["clipped"] = True
    assert ReturnToGo(1.0).resolved(store).clip is True
    assert ReturnToGo(1.0, clip=False).resolved(store).clip is False  # as in the original


@pytest.mark.parametrize(
    ("family", "returns", "scale"),
    [("hopper", 3000.0, 1000.0), (None, 76.0, 10.0), (None, 1.0, 1.0), (None, 0.0, 1.0)],
)
def test_the_scale_is_the_published_one_or_follows_the_data(
    make_store: Callable[..., EpisodeStore], family: str | None, returns: float, scale: float
) -> None:
    store = make_store([10])
    store.header["family"] = family
    store.__dict__["returns"] = np.array([-0.5 * returns, returns])
    assert ReturnToGo().resolved(store) == ReturnToGo(scale, clip=False)
    assert type(ReturnToGo().resolved(store).scale) is float  # YAML cannot write numpy types
    assert ReturnToGo(7.0, clip=True).resolved(store) == ReturnToGo(7.0, clip=True)


def test_labels_are_kept_beside_the_store(store: EpisodeStore) -> None:
    first = label(store, ReturnToGo(10.0))
    files = sorted(store.path.glob("conditions-*.npy"))
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    again = label(store, ReturnToGo(10.0))
    assert files[0].stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first.array, again.array)
    other = label(store, ReturnToGo(20.0))
    np.testing.assert_allclose(first.array, 2 * other.array, rtol=1e-6)


def test_labels_of_other_code_are_not_reused(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited `relabel` must not reuse labels of the previous version."""
    label(store, ReturnToGo(10.0))
    source = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda module: source(module) + "# edited")
    label(store, ReturnToGo(10.0))
    assert len(list(store.path.glob("conditions-*.npy"))) == 2


def test_labels_cut_short_are_made_again(store: EpisodeStore) -> None:
    whole = np.array(label(store, ReturnToGo(10.0)).array)
    next(store.path.glob("conditions-*.npy")).write_bytes(b"")
    np.testing.assert_array_equal(label(store, ReturnToGo(10.0)).array, whole)


def test_the_control_keeps_the_labels_and_nothing_else(
    make_store: Callable[..., EpisodeStore],
) -> None:
    lengths = [20, 40] * 100
    store = make_store(lengths)
    own = label(store, ReturnToGo(10.0)).array[:, 0]
    lent = label(store, ShuffledReturnToGo(10.0)).array[:, 0]
    np.testing.assert_array_equal(np.sort(own), np.sort(lent))
    # it is independent of the own label, of the time and of the episode's length
    timesteps = np.concatenate([np.arange(length) for length in lengths])
    for fact in (own, timesteps, np.repeat(lengths, lengths)):
        assert abs(np.corrcoef(lent, fact)[0, 1]) < 0.06  # 4.6 standard errors of 6000 pairs
        assert fact is own or abs(np.corrcoef(own, fact)[0, 1]) > 0.4


def test_nothing_to_be_conditioned_on_is_of_no_width(store: EpisodeStore) -> None:
    nothing = Unconditioned().resolved(store)
    column = label(store, nothing)
    assert column.shape == (store.num_transitions, 0)
    assert column.windows(np.array([0, 3, store.num_transitions - 1]), 8).shape == (3, 8, 0)
    assert column.take(np.array([[0, 5]])).shape == (1, 2, 0)
    assert not list(store.path.glob("conditions-*"))
    prompt = nothing.prompt(np.array([3600.0, 1800.0]))
    assert prompt.shape == (2, 0)
    step = Transition(*np.zeros((4, 2)))
    assert nothing.advance(prompt, np.zeros(2), step, np.zeros(2)).shape == (2, 0)


def test_a_folder_that_cannot_be_written_is_named(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        label(store, ReturnToGo(10.0))
    assert not list(store.path.glob("*conditions*"))
