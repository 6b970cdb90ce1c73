"""Every conditioning of the registry: each label means what its name says, in the data and in a
rollout."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from decision_seq.config import load, to_tree
from decision_seq.datasets.store import EpisodeStore
from decision_seq.sequences.conditioning import Conditioning, label
from decision_seq.sequences.conditioning.outcome import Outcome
from decision_seq.types import Episode, Transition
from tests.conftest import OBSERVATION

NAMES = sorted(Conditioning.get_known_choices())
WIDE = {"goal": OBSERVATION}  # labels of several columns, of a width that the data determine
ONE = {"return_to_go", "shuffled_return_to_go", "feature_to_go", "reward", "value"}


def resolved(name: str, store: EpisodeStore) -> Conditioning:
    return Conditioning.get_choice_class(name)().resolved(store)


def columns(conditioning: Conditioning) -> dict[str, slice]:
    """The columns of each label, in the order of `fields`; other labels share what is left."""
    widths = {name: WIDE.get(name, 1 if name in ONE else 0) for name in conditioning.fields}
    others = [name for name, width in widths.items() if not width]
    left = conditioning.size - sum(widths.values())
    widths |= {name: left // len(others) for name in others}
    ends = np.cumsum([0, *widths.values()])
    assert ends[-1] == conditioning.size
    return {n: slice(*ends[i : i + 2]) for i, n in enumerate(widths)}


def counts_down(conditioning: Conditioning, values: np.ndarray, labels: np.ndarray) -> None:
    """R_t = r_t / scale + R_{t+1}, and nothing is still to come after the last step."""
    following = np.append(labels[1:, 0], 0)
    units = getattr(conditioning, "scale", 1.0)
    clip = getattr(conditioning, "clip", False)
    counted = np.clip(values, -1, 1) if clip else values
    np.testing.assert_allclose(labels[:, 0], counted / units + following, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(labels[0, 0] * units, counted.sum(), rtol=1e-5)


def is_return_to_go(conditioning: Conditioning, episode: Episode, labels: np.ndarray) -> None:
    counts_down(conditioning, episode.rewards, labels)


def is_feature_to_go(conditioning: Conditioning, episode: Episode, labels: np.ndarray) -> None:
    counts_down(conditioning, conditioning.of_episode(episode), labels)


def is_reward(conditioning: Conditioning, episode: Episode, labels: np.ndarray) -> None:
    np.testing.assert_array_equal(labels[:, 0], episode.rewards.astype(np.float32))


def is_value(conditioning: Conditioning, episode: Episode, labels: np.ndarray) -> None:
    """V_t = r_{t+1} + discount V_{t+1}, and 0 at the end."""
    assert labels[-1, 0] == 0
    following = episode.rewards[1:] + conditioning.discount * labels[1:, 0]
    np.testing.assert_allclose(labels[:-1, 0], following, rtol=1e-5, atol=1e-5)


def is_goal(conditioning: Conditioning, episode: Episode, labels: np.ndarray) -> None:
    assert (labels == episode.observations[-1]).all()


def is_histogram(conditioning: Conditioning, episode: Episode, labels: np.ndarray) -> None:
    assert (labels >= 0).all()
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
    assert labels[-1].max() == 1
    following = np.arange(len(labels), 0, -1)[:, None] * labels  # counts fall one step at a time
    taken = following[:-1] - following[1:]
    np.testing.assert_allclose(taken.max(1, initial=0), 1, atol=1e-3)


# By the name of a label; one that is not here has the checks of every conditioning only.
MEANINGS: dict[str, Callable[[Conditioning, Episode, np.ndarray], None]] = {
    "return_to_go": is_return_to_go,
    "shuffled_return_to_go": is_return_to_go,  # of an episode by itself, before the shuffle
    "feature_to_go": is_feature_to_go,
    "reward": is_reward,
    "value": is_value,
    "goal": is_goal,
    "histogram": is_histogram,
}


def check_meanings(name: str, store: EpisodeStore) -> None:
    conditioning = resolved(name, store)
    for field, place in columns(conditioning).items():
        for episode in store.episodes():
            if field in MEANINGS:
                MEANINGS[field](conditioning, episode, conditioning.relabel(episode)[:, place])


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_what_their_names_say(name: str, store: EpisodeStore) -> None:
    check_meanings(name, store)


@pytest.mark.parametrize("name", NAMES)
def test_a_stores_labels_are_those_of_its_episodes(name: str, store: EpisodeStore) -> None:
    conditioning = resolved(name, store)
    found = np.asarray(label(store, conditioning).array)
    assert found.shape == (store.num_transitions, conditioning.size)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert bool(conditioning.fields) == (conditioning.size > 0)
    each = [conditioning.relabel(episode) for episode in store.episodes()]
    assert all(labels.dtype == np.float32 for labels in each)
    expected = np.concatenate(each)
    if conditioning.shuffles:
        assert (found != expected).any()
        found, expected = (rows[np.lexsort(rows.T)] for rows in (found, expected))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_has_the_width_of_the_labels(name: str, store: EpisodeStore) -> None:
    """It depends on the targets where the conditioning asks for them, and nowhere else."""
    conditioning = resolved(name, store)
    first = conditioning.prompt(np.array([1.0, 2.0, 5.0]))
    assert first.shape == (3, conditioning.size)
    assert first.dtype == np.float32
    assert conditioning.asks == bool((first[0] != first[1]).any())
    step = Transition(np.ones((3, OBSERVATION)), np.ones((3, 3)), np.ones(3), np.ones((3, 11)))
    second = conditioning.advance(first.copy(), np.arange(3.0), step, np.zeros(3))
    assert second.shape == first.shape
    assert second.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_advancing_retraces_the_labels(name: str, store: EpisodeStore) -> None:
    """Where a condition changes in a rollout, the data's own steps change it as the labels do."""
    conditioning = resolved(name, store)
    if type(conditioning).advance is Conditioning.advance:
        return
    for index, episode in enumerate(store.episodes()):
        labels = conditioning.relabel(episode)
        targets = store.returns[index : index + 1]
        asked = np.zeros(conditioning.size, bool)  # the columns that a target determines
        if conditioning.asks:
            first = conditioning.prompt(targets)[0]
            asked = first != conditioning.prompt(targets + 1)[0]
            np.testing.assert_allclose(first[asked], labels[0, asked], rtol=1e-5)
        condition = labels[:1]
        for t in range(len(episode)):
            np.testing.assert_allclose(condition[0], labels[t], rtol=1e-4, atol=1e-4)
            following = episode.observations[min(t + 1, len(episode.observations) - 1)]
            step = Transition(
                episode.observations[t : t + 1],
                episode.actions[t : t + 1],
                episode.rewards[t : t + 1],
                following[None],
            )
            condition = conditioning.advance(condition, targets, step, np.array([t]))
        np.testing.assert_allclose(condition[0, asked], 0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_rollouts_settings_change_no_label(name: str, store: EpisodeStore) -> None:
    conditioning = resolved(name, store)
    labels = [np.empty((store.num_transitions, conditioning.size), np.float32) for _ in range(2)]
    for given, out in zip((conditioning, conditioning.labelling), labels, strict=True):
        given.relabel_store(store, out)
    np.testing.assert_array_equal(*labels)
    assert conditioning.labelling.labelling == conditioning.labelling


@pytest.mark.parametrize("name", NAMES)
def test_a_conditioning_comes_back_from_its_text(name: str, store: EpisodeStore) -> None:
    conditioning = resolved(name, store)
    for given in (conditioning, Conditioning.get_choice_class(name)()):
        assert load(Conditioning, {"name": name, **to_tree(given)}) == given
    assert conditioning.resolved(store) == conditioning


@dataclass(frozen=True)
class Swapped(Outcome):
    """Labels in another order than `fields` says."""

    def relabel(self, episode: Episode) -> np.ndarray:
        return super().relabel(episode)[:, ::-1]


def test_permuted_columns_are_caught(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conditioning._choice_registry, "swapped", Swapped)
    assert "swapped" in Conditioning.get_known_choices()
    check_meanings("outcome", store)
    with pytest.raises(AssertionError):
        check_meanings("swapped", store)
