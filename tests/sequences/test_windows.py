"""Samplers: each is a pure function of (seed, step), whose batches all ranks cut alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.windows import (
    SAMPLERS,
    Pool,
    RandomWindows,
    Sampler,
    Segments,
    Weighted,
    WholeEpisodes,
    WindowGatherer,
    rank_slice,
)
from decision_seq.types import UserError

OFFSETS = np.array([0, 30, 37, 88, 89, 113])
LENGTH = 60  # holds every episode


def make(name: str, seed: int = 0, batch: int = 16, **pool: object) -> Sampler:
    return SAMPLERS[name](Pool(OFFSETS, **{"length": LENGTH, **pool}), seed, batch)


@pytest.mark.parametrize("name", SAMPLERS)
@given(seed=st.integers(0, 2**63), step=st.integers(0, 2**40), batch=st.integers(1, 70))
def test_ids_are_a_function_of_seed_and_step(name: str, seed: int, step: int, batch: int) -> None:
    """Whatever was drawn before: a resumed run has drawn nothing yet."""
    first, second = make(name, seed, batch), make(name, seed, batch)
    first.ids(0), first.ids(step + 7)
    ids = first.ids(step)
    np.testing.assert_array_equal(ids, second.ids(step))
    assert ids.shape == (batch,)
    assert ((ids >= 0) & (ids < 113)).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_seeds_differ(name: str) -> None:
    drawn = {tuple(np.concatenate([make(name, s, 8).ids(t) for t in range(3)])) for s in range(20)}
    assert len(drawn) == 20


def test_steps_differ() -> None:
    sampler = RandomWindows(Pool(np.array([0, 10**6]), 20), 0, 8)
    assert len({tuple(sampler.ids(step)) for step in range(400)}) == 400


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("world", [1, 2, 3, 4, 16])
def test_ranks_together_are_the_global_batch(name: str, world: int) -> None:
    """Invariant 5: disjoint windows whose union, in order, is the single-process batch."""
    sampler = make(name)
    for step in range(50):
        ids = sampler.ids(step)
        parts = [rank_slice(np.arange(16), rank, world) for rank in range(world)]
        assert np.concatenate(parts).tolist() == list(range(16))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(
            np.concatenate([rank_slice(ids, rank, world) for rank in range(world)]), ids
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_the_pools_episodes_are_drawn(name: str) -> None:
    chosen = np.array([False, True, False, True, True])
    sampler = make(name, episodes=chosen)
    ids = np.concatenate([sampler.ids(step) for step in range(60)])
    episodes = np.searchsorted(OFFSETS, ids, side="right") - 1
    assert set(episodes) == {1, 3, 4}


def test_episodes_are_drawn_in_proportion_to_their_length() -> None:
    """Every transition equally often, so that an episode's share is its length's."""
    sampler = make("any", batch=64)
    ids = np.concatenate([sampler.ids(step) for step in range(4000)])
    counts = np.bincount(ids, minlength=113)
    expected = len(ids) / 113
    assert len(counts) == 113
    # chi-squared with 112 degrees of freedom: mean 112, standard deviation 15
    assert ((counts - expected) ** 2 / expected).sum() < 112 + 5 * 15


def test_whole_episodes_fit_into_a_window() -> None:
    assert set(make("whole").ids(0)) <= set(OFFSETS[:-1])
    with pytest.raises(UserError, match=r"windows whole: an episode has 51 steps, .* take windows"):
        WholeEpisodes(Pool(OFFSETS, 50), 0, 4)


def test_weights_are_respected() -> None:
    weights = np.zeros(113)
    weights[[5, 40, 100]] = 0.0, 1.0, 3.0
    sampler = make("any", seed=1, batch=64, weights=weights)
    ids = np.concatenate([sampler.ids(step) for step in range(500)])
    assert set(ids) == {40, 100}
    assert np.mean(ids == 100) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
@pytest.mark.parametrize("kind", ["even", "random", "skewed", "one heavy", "many zeros"])
def test_every_index_has_the_chance_of_its_weight(count: int, kind: str) -> None:
    rng = np.random.default_rng(count)
    weights = {
        "even": np.ones(count),
        "random": rng.random(count),
        "skewed": rng.random(count) ** 8,
        "one heavy": np.r_[1e6, rng.random(count - 1)],
        "many zeros": (rng.random(count) < 0.3) + np.eye(1, count)[0],
    }[kind]
    chances = Weighted(weights).chances()
    np.testing.assert_allclose(chances, weights / weights.sum(), atol=2e-7)
    assert (chances[weights == 0] == 0).all()


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match="weights of windows must be finite"):
        Weighted(np.array(weights))


def test_a_weighted_draw_reads_as_much_of_any_number_of_weights() -> None:
    """One table entry a window: no sum, no search over all transitions at an update."""

    class Counting(np.ndarray):
        read = 0

        def __getitem__(self, key: object) -> np.ndarray:
            found = np.asarray(self)[key]
            Counting.read += np.size(found)
            return found

    counts = []
    for size in (100, 100_000):
        weighted = Weighted(np.random.default_rng(0).random(size))
        weighted.table = weighted.table.view(Counting)
        Counting.read = 0
        weighted.indices(np.random.default_rng(0), 64)
        counts.append(Counting.read)
    assert counts == [64, 64]


@pytest.mark.parametrize("overlap", [0, 3])
def test_segments_read_every_episode_from_end_to_end(overlap: int) -> None:
    """Each row reads each episode once a pass, its pieces in order; no piece crosses an end."""
    length = 8
    sampler = Segments(Pool(OFFSETS, length, overlap=overlap), 0, 3)
    for turn in range(2):
        steps = range(turn * sampler.steps_a_pass, (turn + 1) * sampler.steps_a_pass)
        batches = np.stack([sampler.ids(step) for step in steps])  # [steps, 3]
        orders = []
        for row in batches.T:
            episodes = np.searchsorted(OFFSETS, row, side="right") - 1
            order = list(dict.fromkeys(episodes.tolist()))
            orders.append(order)
            assert sorted(order) == [0, 1, 2, 3, 4]
            for episode in order:
                first, end = OFFSETS[episode], OFFSETS[episode + 1]
                pieces = row[episodes == episode]
                expected = np.arange(first, max(end - overlap, first + 1), length - overlap)
                assert pieces.tolist() == expected.tolist()
                places = np.flatnonzero(episodes == episode)
                assert np.diff(places).tolist() == [1] * (len(pieces) - 1)  # nothing in between
        assert len({tuple(order) for order in orders}) > 1  # rows have orders of their own


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
