import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decision_seq.data.sampler import WindowGatherer, WindowIndex, rank_slice, window_ids
from decision_seq.data.store import EpisodeStore

OFFSETS = np.array([0, 30, 37, 88, 89, 113])


@given(seed=st.integers(0, 2**63), step=st.integers(0, 2**40), batch=st.integers(1, 70))
def test_ids_are_a_function_of_seed_and_step(seed: int, step: int, batch: int) -> None:
    index = WindowIndex(OFFSETS)
    ids = window_ids(seed, step, batch, index)
    np.testing.assert_array_equal(ids, window_ids(seed, step, batch, index))
    assert ((ids >= 0) & (ids < 113)).all()


def test_steps_and_seeds_differ() -> None:
    index = WindowIndex(np.array([0, 10**6]))
    drawn = {(s, t): tuple(window_ids(s, t, 8, index)) for s in range(20) for t in range(20)}
    assert len(set(drawn.values())) == 400


@pytest.mark.parametrize("world", [1, 2, 3, 4, 16])
def test_ranks_together_are_the_global_batch(world: int) -> None:
    """Invariant 5: the ranks' windows, concatenated in order, are the single-process batch."""
    for step in range(50):
        ids = window_ids(3, step, 16, WindowIndex(np.arange(1000)))
        parts = [rank_slice(np.arange(16), rank, world) for rank in range(world)]
        assert np.concatenate(parts).tolist() == list(range(16))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(
            np.concatenate([rank_slice(ids, rank, world) for rank in range(world)]), ids
        )


def test_episodes_are_drawn_in_proportion_to_their_length() -> None:
    """Every transition is equally likely, so an episode's share is that of its length."""
    ids = np.concatenate([window_ids(0, step, 64, WindowIndex(OFFSETS)) for step in range(4000)])
    counts = np.bincount(ids, minlength=113)
    expected = len(ids) / 113
    assert len(counts) == 113
    # chi-squared with 112 degrees of freedom: mean 112, standard deviation 15
    assert ((counts - expected) ** 2 / expected).sum() < 112 + 5 * 15


def test_starts_and_weights_are_respected() -> None:
    index = WindowIndex(OFFSETS, np.array([5, 40, 100]), np.array([0.0, 1.0, 3.0]))
    ids = np.concatenate([window_ids(1, step, 64, index) for step in range(500)])
    assert set(ids) == {40, 100}
    assert np.mean(ids == 100) == pytest.approx(0.75, abs=0.02)


def test_windows_equal_a_plain_loop(store: EpisodeStore, gatherer: WindowGatherer) -> None:
    ids = np.arange(113)
    batch = gatherer.gather(ids)
    for row, start in enumerate(ids):
        episode = int(np.searchsorted(store.offsets, start, side="right")) - 1
        first = start - store.offsets[episode]
        whole = store.episode(episode)
        length = min(8, len(whole) - first)
        to_go = [sum(whole.rewards[t:].astype(np.float64)) / 10 for t in range(len(whole))]
        assert batch.mask[row].tolist() == [True] * length + [False] * (8 - length)
        ended = [whole.terminated and first + t == len(whole) - 1 for t in range(8)]
        assert batch.terminated[row].tolist() == ended
        window = slice(first, first + length)
        expected = {
            "observations": whole.observations[:-1][window],
            "actions": whole.actions[window],
            "rewards": whole.rewards[window],
            "timesteps": np.arange(first, first + length),
        }
        for name, array in expected.items():
            np.testing.assert_array_equal(getattr(batch, name)[row, :length], array)
        np.testing.assert_allclose(batch.conditions[row, :length, 0], to_go[window], rtol=1e-5)
    # Each terminated episode has one window per step that contains its last one; others none.
    assert batch.terminated.sum() == sum(min(8, n) for n in store.lengths[store.terminated])
    for array in (batch.observations, batch.actions, batch.conditions):
        assert np.isfinite(array).all()


def test_timesteps_stay_below_the_table(store: EpisodeStore, gatherer: WindowGatherer) -> None:
    short = WindowGatherer(store, gatherer.conditions, 8, 20)
    assert short.gather(np.arange(113)).timesteps.max() == 19
