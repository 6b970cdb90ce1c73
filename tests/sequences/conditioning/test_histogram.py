"""Tests of histogram labels, in the data and in rollouts, and of the distance between them."""

import numpy as np
import pytest

from decision_seq.config import load, to_tree
from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.conditioning import Conditioning, label
from decision_seq.sequences.conditioning.histogram import Histogram, wasserstein
from decision_seq.types import Episode, Transition, UserError

THIRD = pytest.approx(1 / 3)


def rewarded(rewards: list[float]) -> Episode:
    steps = len(rewards)
    return Episode(np.zeros((steps, 1)), np.zeros((steps, 1)), np.array(rewards), True, False)


def test_the_worked_example() -> None:
    labels = Histogram(bins=2, low=0.0, high=1.0).relabel(rewarded([0.1, 0.9, 0.9]))
    assert labels.dtype == np.float32
    assert labels.tolist() == [[THIRD, pytest.approx(2 / 3)], [0, 1], [0, 1]]


@pytest.mark.parametrize("feature", ["reward", "x_velocity", 2])
def test_a_stores_labels_are_the_definitions(store: EpisodeStore, feature: int | str) -> None:
    """The label of every step equals numpy's histogram of that step and all later ones."""
    conditioning = Histogram(feature=feature, bins=7).resolved(store)
    column = label(store, conditioning).array
    assert column.shape == (store.num_transitions, 7)
    assert column.dtype == np.float32
    for index, episode in enumerate(store.episodes()):
        rows = slice(store.offsets[index], store.offsets[index + 1])
        values = conditioning.of_episode(episode)
        plain = [np.histogram(values[t:], conditioning.edges)[0] for t in range(len(values))]
        shares = [counts / counts.sum() for counts in plain]
        np.testing.assert_allclose(column[rows], shares, rtol=1e-6)
        np.testing.assert_array_equal(column[rows], conditioning.relabel(episode))
    whole = conditioning.of_store(store)
    assert (conditioning.low, conditioning.high) == (whole.min(), whole.max())
    assert conditioning.shares(whole).sum() == pytest.approx(1)


def test_what_lies_beyond_belongs_to_the_outer_bins() -> None:
    conditioning = Histogram(bins=4, low=-1.0, high=1.0)
    edges = [-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0, np.nextafter(0.5, 0)]
    counts = 8 * conditioning.shares(np.array(edges))
    assert counts.tolist() == [2, 1, 2, 3]  # a bin includes its lower edge, the last one both


def test_a_rollout_is_asked_for_one_distribution(store: EpisodeStore) -> None:
    """By default it is that of the best episode, the same at every step."""
    conditioning = Histogram(feature="x_velocity", bins=5).resolved(store)
    best = store.episode(int(store.returns.argmax()))
    assert not conditioning.asks
    first = conditioning.prompt(np.array([np.nan, 3.0]))
    assert first.shape == (2, 5)
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, np.tile(conditioning.relabel(best)[0], (2, 1)), atol=1e-7)
    step = Transition(*(np.ones((2, 1)) for _ in range(4)))
    np.testing.assert_array_equal(
        conditioning.advance(first, np.zeros(2), step, np.array([7, 900])), first
    )
    given = Histogram(bins=2, low=0.0, high=1.0, target=(1.0, 3.0)).resolved(store)
    assert given.prompt(np.zeros(1)).tolist() == [[0.25, 0.75]]


def test_another_target_asks_for_no_other_labels(store: EpisodeStore) -> None:
    first = Histogram(bins=2).resolved(store)
    label(store, first)
    label(store, Histogram(bins=2, target=(1.0, 0.0)).resolved(store))
    files = list(store.path.glob("conditions-*.npy"))
    assert len(files) == 1
    label(store, Histogram(bins=3).resolved(store))
    assert len(list(store.path.glob("conditions-*.npy"))) == 2


def test_the_configuration_comes_back_from_its_text(store: EpisodeStore) -> None:
    for conditioning in (Histogram(feature="x_velocity"), Histogram(bins=4).resolved(store)):
        assert load(Conditioning, {"name": "histogram", **to_tree(conditioning)}) == conditioning


def test_the_distance_of_the_worked_example() -> None:
    assert wasserstein(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 0.5) == 0.25


def test_the_distance_is_scipys() -> None:
    """scipy receives the bins' centres, weighted by their shares."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for bins in (1, 2, 30):
        conditioning = Histogram(bins=bins, low=-2.0, high=5.0)
        centres = conditioning.edges[:-1] + 3.5 / bins
        first, second = (conditioning.shares(rng.normal(m, 1, 500)) for m in (0.0, 2.0))
        expected = stats.wasserstein_distance(centres, centres, first, second)
        assert wasserstein(first, second, 7 / bins) == pytest.approx(expected, abs=1e-12)
        assert wasserstein(first, first, 7 / bins) == 0


def test_what_cannot_be_is_one_line(store: EpisodeStore) -> None:
    for bad, named in (
        ({"bins": 0}, "bins 0"),
        ({"low": 1.0, "high": 1.0}, "low 1.0 must be below"),
        ({"low": float("nan")}, "low nan must be below"),
        ({"bins": 2, "target": (1.0,)}, "target has 1 numbers for 2 bins"),
        ({"bins": 2, "target": (0.0, 0.0)}, "not all of them 0"),
        ({"bins": 2, "target": (1.5, -0.5)}, "from 0 up"),
    ):
        with pytest.raises(UserError, match=named):
            Histogram(**bad)
    with pytest.raises(UserError, match="which is no range"):
        Histogram(low=1e9).resolved(store)
    for use in (lambda h: h.prompt(np.zeros(1)), lambda h: h.relabel(store.episode(0))):
        with pytest.raises(ValueError, match="not resolved"):
            use(Histogram())
