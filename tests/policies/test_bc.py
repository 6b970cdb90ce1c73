from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from decision_seq.datasets.store import EpisodeStore
from decision_seq.policies import BehaviourCloning, BehaviourCloningConfig
from decision_seq.sequences.conditioning import Unconditioned, label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Batch, Spec, UserError
from tests.conftest import lived

K = 8


@pytest.fixture
def policy(store: EpisodeStore, spec: Spec) -> BehaviourCloning:
    torch.manual_seed(0)
    made = BehaviourCloningConfig(K, width=32).build(replace(spec, condition_size=0))
    made.fit(store, label(store, Unconditioned()))
    return made.eval()


def windows(store: EpisodeStore) -> Batch:
    """Every window of the store."""
    gatherer = WindowGatherer(store, label(store, Unconditioned()), K, 1000)
    return gatherer.gather(np.arange(store.num_transitions)).tensors()


def plainly(policy: BehaviourCloning, observations: np.ndarray) -> torch.Tensor:
    """The action after `observations` [t + 1, S] of one episode from its beginning, in a loop."""
    size = observations.shape[1]
    seen = torch.zeros(K, size)
    mean, std = policy.standardize.mean, policy.standardize.std
    for back in range(min(K, len(observations))):
        seen[K - 1 - back] = (torch.tensor(observations[-1 - back]) - mean) / std
    hidden = seen.flatten()
    for layer in policy.layers:
        hidden = torch.relu(layer[0].weight @ hidden + layer[0].bias)
    return torch.tanh(policy.actions.head.weight @ hidden + policy.actions.head.bias)


@torch.no_grad()
def test_the_newest_states_come_last_and_missing_ones_are_zeros(
    policy: BehaviourCloning, store: EpisodeStore
) -> None:
    """A rollout's context equals a plain loop, from the first step to beyond K."""
    episode = store.episode(2)
    nothing = np.empty((len(episode), 0), np.float32)
    for t, batch in enumerate(lived(policy.spec, K, episode, nothing)):
        chosen, _ = policy.act(batch)
        expected = plainly(policy, episode.observations[: t + 1])
        torch.testing.assert_close(chosen[1], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_each_transition_counts_once_and_in_the_context_of_a_rollout(
    policy: BehaviourCloning, store: EpisodeStore
) -> None:
    batch = windows(store)
    weights = policy.weights(batch, torch.Generator())["action"]
    values = policy(batch, torch.Generator()).losses["action"]
    starts, steps = weights.nonzero(as_tuple=True)
    rows = starts + steps
    assert sorted(rows.tolist()) == list(range(store.num_transitions))
    for start, step in zip(starts.tolist(), steps.tolist(), strict=True):
        row = start + step
        index = int(np.searchsorted(store.offsets, row, side="right")) - 1
        episode, t = store.episode(index), row - int(store.offsets[index])
        action = plainly(policy, episode.observations[: t + 1])
        expected = (action - torch.tensor(episode.actions[t])).square().mean()
        torch.testing.assert_close(values[start, step], expected, rtol=1e-4, atol=1e-6)


def test_the_paper_sized_model_has_61699_parameters(spec: Spec) -> None:
    """kzl's mlp_bc for Hopper: 220 -> 128 -> 128 -> 128 -> 3."""
    policy = BehaviourCloningConfig().build(spec)
    expected = 220 * 128 + 128 + 2 * (128 * 128 + 128) + 128 * 3 + 3
    assert sum(parameter.numel() for parameter in policy.parameters()) == expected == 61_699


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"layers": 0}, "policy.layers 0"), ({"width": 0}, "width 0"), ({"dropout": 1.0}, "1.0")],
)
def test_what_no_network_can_be_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        BehaviourCloningConfig(**settings)


def test_images_are_refused(make_store: Callable[..., EpisodeStore]) -> None:
    with pytest.raises(UserError, match="policy bc needs vector observations"):
        BehaviourCloningConfig().build(Spec((4, 84, 84), 3, "discrete", 0, 1000))
