"""Tests of stores with delayed rewards, by brute force and against the original store."""

from collections.abc import Callable

import numpy as np
import pytest

from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.conditioning import ReturnToGo, Unconditioned, label
from decision_seq.sequences.conditioning.outcome import GoalOutcome, Outcome
from decision_seq.sequences.transforms import delayed
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import UserError


def test_an_episodes_rewards_come_as_one_sum_with_its_last_step(store: EpisodeStore) -> None:
    late = delayed(store)
    for before, after in zip(store.episodes(), late.episodes(), strict=True):
        assert after.rewards[:-1].tolist() == [0.0] * (len(before) - 1)
        assert after.rewards[-1] == pytest.approx(sum(map(float, before.rewards)))
        np.testing.assert_array_equal(after.observations, before.observations)
        np.testing.assert_array_equal(after.actions, before.actions)
        assert (after.terminated, after.truncated) == (before.terminated, before.truncated)
    assert late.returns.tobytes() == store.returns.tobytes()
    assert late.columns["rewards"].dtype == store.columns["rewards"].dtype
    for name in store.columns.keys() - {"rewards"}:
        assert late.columns[name] is store.columns[name]  # nothing else is copied
    assert store.columns["rewards"].array[0] != 0  # unchanged
    late.verify()


def test_labels_are_the_constant_return_and_kept_apart(store: EpisodeStore) -> None:
    """The order of labelling does not matter; both label files are in the same folder."""
    late, asked = delayed(store), ReturnToGo(10.0)
    dense = np.array(label(store, asked).array)
    column = label(late, asked).array
    assert len(list(store.path.glob("conditions-*.npy"))) == 2
    constant = np.repeat(store.returns / 10, store.lengths)
    np.testing.assert_allclose(column[:, 0], constant, rtol=1e-6)
    np.testing.assert_array_equal(label(store, asked).array, dense)
    np.testing.assert_array_equal(label(delayed(store), asked).array, column)
    assert late.checksum != store.checksum
    assert delayed(store).checksum == late.checksum


def test_values_are_discounted_from_the_end(store: EpisodeStore) -> None:
    labels = label(delayed(store), Outcome(0.9)).array
    for index, length in enumerate(store.lengths):
        rows = labels[store.offsets[index] : store.offsets[index + 1]]
        left = np.arange(length)[::-1]  # steps to the last one
        expected = np.where(left > 0, store.returns[index] * 0.9 ** (left - 1.0), 0)
        np.testing.assert_allclose(rows[:, 1], expected, rtol=1e-5)
        np.testing.assert_allclose(rows[:, 0], np.where(left == 0, store.returns[index], 0))


def test_windows_hold_the_delayed_rewards(store: EpisodeStore) -> None:
    late = delayed(store)
    ids = np.arange(store.num_transitions)
    asked = Unconditioned()
    found = WindowGatherer(late, label(late, asked), 6, 1000).gather(ids)
    dense = WindowGatherer(store, label(store, asked), 6, 1000).gather(ids)
    for name in ("observations", "actions", "timesteps", "mask", "terminated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(dense, name))
    rows = ids[:, None] + np.arange(6)
    episode = np.searchsorted(store.offsets, ids, side="right")[:, None] - 1
    last = rows == store.offsets[episode + 1] - 1
    expected = np.where(last, store.returns[episode], 0)
    np.testing.assert_array_equal(found.rewards[found.mask], expected[found.mask])


def test_what_would_spoil_a_delayed_return_is_refused(
    make_store: Callable[..., EpisodeStore],
) -> None:
    store = make_store([9, 4])
    store.header["clipped"] = True  # each reward was; their sum must not be
    assert ReturnToGo(1.0).resolved(delayed(store)).clip is False
    for conditioning in (
        ReturnToGo(1.0, clip=True),
        Outcome(termination_penalty=-100.0),
        GoalOutcome(termination_penalty=-100.0),
    ):
        conditioning.resolved(store)
        with pytest.raises(UserError, match=r"delayed return.*; set it to (false|null)"):
            conditioning.resolved(delayed(store))
