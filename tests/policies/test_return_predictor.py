from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from decision_seq.datasets.store import EpisodeStore
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import ReturnPredictor, ReturnPredictorConfig
from decision_seq.policies.base import Policy
from decision_seq.sequences.conditioning import label
from decision_seq.sequences.conditioning.outcome import Outcome
from decision_seq.training import masked_mean
from decision_seq.types import Batch, Spec, UserError

T = 8
KEY, DOOR = 2, 5  # the two steps that decide whether an episode succeeds
SMALL = GPTConfig(layers=2, heads=2, width=32, dropout=0.0)


@pytest.fixture
def policy() -> ReturnPredictor:
    torch.manual_seed(0)
    return ReturnPredictorConfig(T, SMALL).build(Spec((1,), 2, "discrete", 2, T))


def episodes(count: int, seed: int) -> Batch:
    """Episodes that succeed where the observation of step 2 is above 0 and the action of 5 is 1."""
    draw = torch.Generator().manual_seed(seed)
    observations = torch.randn(count, T, 1, generator=draw).sign()
    actions = torch.randint(2, (count, T), generator=draw)
    success = ((observations[:, KEY, 0] > 0) & (actions[:, DOOR] == 1)).float()
    rewards = F.pad(success[:, None], (T - 1, 0))
    values = success[:, None] - rewards
    timesteps = torch.arange(T).expand(count, T)
    mask = torch.ones(count, T, dtype=torch.bool)
    conditions = torch.stack([rewards, values], -1)
    return Batch(observations, actions, rewards, conditions, timesteps, mask)


def test_what_is_expected_follows_what_decides(policy: ReturnPredictor) -> None:
    """A quarter at first, zero or a half after the key is seen, certainty at the door's action."""
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for step in range(200):
        batch, rng = episodes(64, step), torch.Generator()
        losses, weights = policy(batch, rng).losses, policy.weights(batch, rng)
        optimizer.zero_grad()
        torch.stack([masked_mean(losses[name], weights[name]) for name in losses]).sum().backward()
        optimizer.step()
    batch = episodes(500, 1_000)
    with torch.no_grad():
        found = policy.eval().expected(batch)
    key = batch.observations[:, KEY, 0] > 0
    door = key & (batch.actions[:, DOOR] == 1)
    assert (found[:, :KEY] - 0.25).abs().max() < 0.15
    assert (found[key, KEY:DOOR] - 0.5).abs().max() < 0.15
    assert found[~key, KEY:].max() < 0.1
    assert found[door, DOOR:].min() > 0.9
    assert found[~door, DOOR:].max() < 0.1


def test_its_loss_is_the_cross_entropy_of_success(policy: ReturnPredictor) -> None:
    batch = episodes(20, 0)
    policy.eval()
    with torch.no_grad():
        found, losses = policy.expected(batch), policy(batch, torch.Generator()).losses
    success = batch.rewards.sum(1, keepdim=True)
    expected = -(success * found.log() + (1 - success) * (1 - found).log())
    torch.testing.assert_close(losses["return"], expected)


def test_only_returns_of_0_or_1_are_a_success(
    store: EpisodeStore, spec: Spec, make_store: Callable[..., EpisodeStore]
) -> None:
    outcome = Outcome(discount=1.0)
    asked = replace(spec, condition_size=2)

    def made(**chosen: str) -> Policy:
        return ReturnPredictorConfig(T, SMALL, **chosen).build(asked)  # type: ignore[arg-type]

    with pytest.raises(UserError, match=r"needs returns of 0 or 1.*--policy.estimates return"):
        made().fit(store, label(store, outcome))
    made(estimates="return").fit(store, label(store, outcome))
