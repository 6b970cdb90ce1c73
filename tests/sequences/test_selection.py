from collections.abc import Callable

import numpy as np
import pytest

from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.selection import best_of, held_out, trained_on
from decision_seq.types import UserError

LENGTHS, RETURNS = np.array([10, 20, 30, 40]), np.array([5.0, 1.0, 9.0, 7.0])
ALL = np.ones(4, bool)


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [(1.0, [0, 1, 2, 3]), (0.75, [2, 3]), (0.7, [2, 3]), (0.69, [2]), (0.5, [2]), (0.1, [2])],
)
def test_the_best_are_kept_until_one_does_not_fit(fraction: float, kept: list[int]) -> None:
    assert np.flatnonzero(best_of(LENGTHS, RETURNS, fraction, ALL)).tolist() == kept


def test_the_best_are_chosen_among_those_admitted() -> None:
    among = np.array([True, True, False, True])
    assert np.flatnonzero(best_of(LENGTHS, RETURNS, 0.75, among)).tolist() == [0, 3]
    assert np.flatnonzero(best_of(LENGTHS, RETURNS, 0.1, among)).tolist() == [3]


def original(lengths: np.ndarray, returns: np.ndarray, fraction: float) -> set[int]:
    """The rule as written in kzl/decision-transformer: one by one, from the last."""
    order = sorted(range(len(returns)), key=lambda index: returns[index])
    budget = max(int(fraction * lengths.sum()), 1)
    kept, steps = {order[-1]}, lengths[order[-1]]
    for index in reversed(order[:-1]):
        if steps + lengths[index] > budget:
            break
        kept.add(index)
        steps += lengths[index]
    return kept


def test_it_is_the_originals_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 30))
        lengths, returns = rng.integers(1, 50, count), rng.normal(size=count)
        fraction = float(rng.uniform(0.01, 1))
        found = best_of(lengths, returns, fraction, np.ones(count, bool))
        assert set(np.flatnonzero(found)) == original(lengths, returns, fraction)


@pytest.mark.parametrize(
    ("count", "fraction", "size"),
    [(100, 0.1, 10), (100, 0.001, 1), (100, 0.999, 99), (2, 0.9, 1), (5, 0.0, 0), (1, 0.0, 0)],
)
def test_some_are_held_out_and_never_all(count: int, fraction: float, size: int) -> None:
    assert held_out(count, fraction).sum() == size
    np.testing.assert_array_equal(held_out(count, fraction), held_out(count, fraction))


def test_a_larger_part_holds_out_those_of_a_smaller_one() -> None:
    assert (held_out(50, 0.4) >= held_out(50, 0.1)).all()
    assert not held_out(1000, 0.1)[:100].all()  # drawn, not the first ones


def test_a_single_episode_cannot_be_held_out() -> None:
    with pytest.raises(UserError, match="one episode"):
        held_out(1, 0.1)


def test_the_filter_leaves_held_out_episodes_alone(
    make_store: Callable[..., EpisodeStore],
) -> None:
    store = make_store([30, 7, 51, 1, 24, 12, 9, 40])
    held = held_out(store.num_episodes, 0.3)
    for fraction in (1.0, 0.5, 0.01):
        trained = trained_on(store, "keep", fraction, 0.3)
        assert not (trained & held).any()
        budget = fraction * store.lengths[~held].sum()
        assert trained.sum() == 1 or store.lengths[trained].sum() <= budget
        worst = store.returns[trained].min()
        assert trained[~held].all() or worst >= store.returns[~held & ~trained].max()


def test_a_least_return_is_asked_of_what_is_not_held_out(
    make_store: Callable[..., EpisodeStore],
) -> None:
    store = make_store([30, 7, 51, 1, 24, 12, 9, 40])
    held = held_out(store.num_episodes, 0.3)
    least = float(np.median(store.returns[~held]))
    trained = trained_on(store, "keep", 1.0, 0.3, least)
    np.testing.assert_array_equal(trained, ~held & (store.returns >= least))
    assert 0 < trained.sum() < (~held).sum()
    # The best fraction refers to the remaining steps: half of these, not of all.
    best = trained_on(store, "keep", 0.5, 0.3, least)
    assert best.sum() == 1 or store.lengths[best].sum() <= store.lengths[trained].sum() / 2
    assert (trained >= best).all()
    best_return = float(store.returns[~held].max())
    assert trained_on(store, "keep", 1.0, 0.3, best_return).sum() == 1
    with pytest.raises(UserError, match=r"the best of them returned .*--least_return") as caught:
        trained_on(store, "keep", 1.0, 0.3, best_return + 1)
    assert "\n" not in str(caught.value)


def test_nothing_left_to_train_on_is_said(make_store: Callable[..., EpisodeStore]) -> None:
    store = make_store([5, 6, 7])
    held = held_out(3, 0.4)
    ended = EpisodeStore(
        store.path, store.header, store.columns, store.offsets, held, np.zeros(3, bool)
    )
    assert trained_on(ended, "keep", 1.0, 0.4).sum() == 2
    with pytest.raises(UserError, match="all held out"):
        trained_on(ended, "exclude", 1.0, 0.4)
