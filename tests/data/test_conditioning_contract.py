"""Every conditioning of the registry, resolved by a small store."""

from dataclasses import replace

import numpy as np
import pytest

from decision_seq.config import load, to_tree
from decision_seq.data.conditioning import Conditioning, label
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Episode, Transition


@pytest.fixture(params=sorted(Conditioning.get_known_choices()))
def conditioning(request: pytest.FixtureRequest, store: EpisodeStore) -> Conditioning:
    return Conditioning.get_choice_class(request.param)().resolved(store)


def transition(episode: Episode, step: int) -> Transition:
    here, following = slice(step, step + 1), slice(step + 1, step + 2)
    observations = episode.observations
    return Transition(
        observations[here], episode.actions[here], episode.rewards[here], observations[following]
    )


def test_the_labels_of_a_store_are_those_of_its_episodes(
    conditioning: Conditioning, store: EpisodeStore
) -> None:
    labels = label(store, conditioning).array
    assert labels.shape == (store.num_transitions, conditioning.size)
    assert labels.dtype == np.float32
    assert np.isfinite(labels).all()
    assert bool(conditioning.fields) == (conditioning.size > 0)
    own = np.concatenate([conditioning.relabel(episode) for episode in store.episodes()])
    if hasattr(conditioning, "shuffle_seed"):  # every label once, at any transition
        own, labels = np.sort(own, 0), np.sort(labels, 0)
    np.testing.assert_array_equal(labels, own)


def test_a_label_depends_on_no_earlier_step(
    conditioning: Conditioning, store: EpisodeStore
) -> None:
    episode, step = store.episode(0), 12
    changed = {}
    for name in ("observations", "actions", "rewards"):
        array = getattr(episode, name).copy()
        array[:step] = array[:step] * 3 + 1
        changed[name] = array
    labels = conditioning.relabel(replace(episode, **changed))
    np.testing.assert_array_equal(labels[step:], conditioning.relabel(episode)[step:])


def test_a_rollout_gets_conditions_like_the_labels(
    conditioning: Conditioning, store: EpisodeStore
) -> None:
    """Shapes and kinds; and where there is a target, `advance` moves as the labels do."""
    for index, episode in enumerate(store.episodes()):
        labels = conditioning.relabel(episode)
        target = store.returns[index : index + 1]
        condition = conditioning.prompt(target)
        for step in range(len(episode)):
            assert condition.shape == (1, conditioning.size)
            assert condition.dtype == np.float32
            if step + 1 == len(episode):
                break
            moved = transition(episode, step)
            following = conditioning.advance(condition, target, moved, np.array([step]))
            if conditioning.asks:
                expected = labels[step + 1] - labels[step]
                np.testing.assert_allclose((following - condition)[0], expected, atol=1e-5)
            condition = following


def test_rows_of_a_rollout_do_not_mix(conditioning: Conditioning, store: EpisodeStore) -> None:
    targets = store.returns[:2]
    steps = [transition(store.episode(index), 3) for index in range(2)]
    both = Transition(*(np.concatenate(parts) for parts in zip(*steps, strict=True)))
    first = conditioning.prompt(targets)
    second = conditioning.advance(first, targets, both, np.array([3, 3]))
    for row in range(2):
        here = slice(row, row + 1)
        np.testing.assert_array_equal(conditioning.prompt(targets[here]), first[here])
        alone = conditioning.advance(first[here], targets[here], steps[row], np.array([3]))
        np.testing.assert_array_equal(alone, second[here])


def test_a_resolved_configuration_survives_yaml(
    conditioning: Conditioning, store: EpisodeStore
) -> None:
    name = Conditioning.get_choice_name(type(conditioning))
    assert load(Conditioning, {**to_tree(conditioning), "name": name}) == conditioning
    assert conditioning.resolved(store) == conditioning
