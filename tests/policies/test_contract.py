"""Every policy of the registry, over every backbone: invariants 1, 2, 3 and 8."""

from dataclasses import replace

import pytest
import torch

from decision_seq.data.sampler import WindowGatherer
from decision_seq.data.store import EpisodeStore
from decision_seq.models.backbones import BackboneConfig
from decision_seq.policies import Policy, PolicyConfig
from decision_seq.train import masked_mean
from decision_seq.types import Batch, Spec

PAIRS = [
    (policy, backbone)
    for policy in sorted(PolicyConfig.get_known_choices())
    for backbone in sorted(BackboneConfig.get_known_choices())
]
LENGTH = 8


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair))
def policy(request: pytest.FixtureRequest, store: EpisodeStore, spec: Spec) -> Policy:
    name, backbone = request.param
    torch.manual_seed(0)
    config = PolicyConfig.get_choice_class(name)(
        context_length=LENGTH, backbone=BackboneConfig.get_choice_class(backbone)()
    )
    made = config.build(spec)
    made.fit(store)
    return made.eval()


@pytest.fixture
def batch(gatherer: WindowGatherer) -> Batch:
    # Windows in the middle of an episode, and short ones at its end (rows 28, 36, 88).
    return gatherer.gather(torch.tensor([0, 3, 28, 36, 60, 88, 92]).numpy()).tensors()


def predictions(policy: Policy, batch: Batch) -> torch.Tensor:
    """The action of every step of every window, [B, T, A]: each taken as the newest in turn."""
    columns = []
    for step in range(batch.mask.shape[1]):
        mask = torch.arange(batch.mask.shape[1]) <= step
        columns.append(policy.act(replace(batch, mask=mask.expand_as(batch.mask)))[0])
    return torch.stack(columns, 1)


def losses(policy: Policy, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """name -> (values, weights), with the same draws for both, as an update hands them in."""
    rng = torch.Generator()
    weights = policy.weights(batch, rng.manual_seed(0))
    values = policy(batch, rng.manual_seed(0))
    assert values.keys() == weights.keys()
    return {name: (values[name], weights[name]) for name in weights}


def noisy_from(batch: Batch, step: int, fields: tuple[str, ...]) -> Batch:
    changed = {}
    for name in fields:
        array = getattr(batch, name).clone()
        if name == "timesteps":
            array[:, step:] = torch.randint(0, 900, array[:, step:].shape)
        else:
            array[:, step:] = torch.randn(array[:, step:].shape) * 20
        changed[name] = array
    return replace(batch, **changed)


INPUTS = ("observations", "actions", "rewards", "conditions", "timesteps")


@torch.no_grad()
def test_nothing_sees_the_future(policy: Policy, batch: Batch) -> None:
    """Invariant 1: noise in step t + 1 and later changes no loss and no action up to t."""
    for step in range(1, LENGTH):
        noisy = noisy_from(batch, step, INPUTS)
        for name, (values, _) in losses(policy, batch).items():
            torch.testing.assert_close(
                losses(policy, noisy)[name][0][:, :step], values[:, :step], rtol=1e-5, atol=1e-6
            )
        torch.testing.assert_close(
            predictions(policy, noisy)[:, :step], predictions(policy, batch)[:, :step]
        )


@torch.no_grad()
def test_an_action_does_not_see_itself(policy: Policy, batch: Batch) -> None:
    """Invariant 2: noise in action t leaves the prediction of action t alone, and moves t + 1's."""
    before = predictions(policy, batch)
    for step in range(LENGTH - 1):
        actions = batch.actions.clone()
        actions[:, step] = torch.randn_like(actions[:, step])
        after = predictions(policy, replace(batch, actions=actions))
        torch.testing.assert_close(after[:, : step + 1], before[:, : step + 1])
        assert (after[:, step + 1] - before[:, step + 1]).abs().max() > 1e-7


@torch.no_grad()
def test_the_condition_and_the_state_are_seen(policy: Policy, batch: Batch) -> None:
    before = predictions(policy, batch)
    for name in ("conditions", "observations"):
        noise = torch.randn_like(getattr(batch, name)) * 5
        after = predictions(policy, replace(batch, **{name: noise}))
        assert (after - before).abs().amax((1, 2)).min() > 1e-6, name


@torch.no_grad()
def test_the_contents_of_padding_change_nothing(policy: Policy, batch: Batch) -> None:
    """Invariant 3, and 8: the loss too."""
    padding = ~batch.mask
    assert padding.any(1).sum() == 3
    changed = {}
    for name in INPUTS:
        array = getattr(batch, name).clone()
        array[padding] = 17 if name == "timesteps" else torch.randn_like(array[padding]) * 100
        changed[name] = array
    other = replace(batch, **changed)
    torch.testing.assert_close(policy.act(other)[0], policy.act(batch)[0])
    for name, (values, weights) in losses(policy, batch).items():
        others, other_weights = losses(policy, other)[name]
        torch.testing.assert_close(others[batch.mask], values[batch.mask])
        assert masked_mean(others, other_weights) == pytest.approx(
            masked_mean(values, weights).item(), rel=1e-6
        )


@torch.no_grad()
def test_the_amount_of_padding_changes_nothing(policy: Policy, batch: Batch) -> None:
    """Invariant 3 and 8: four more padded steps, the same actions and the same loss."""

    def padded(array: torch.Tensor) -> torch.Tensor:
        more = torch.ones(len(array), 4, *array.shape[2:], dtype=array.dtype)
        return torch.cat([array, more], 1)

    changed = {name: padded(getattr(batch, name)) for name in INPUTS}
    mask = torch.cat([batch.mask, torch.zeros(len(batch.mask), 4, dtype=torch.bool)], 1)
    longer = Batch(**changed, mask=mask)
    torch.testing.assert_close(policy.act(longer)[0], policy.act(batch)[0], rtol=1e-5, atol=1e-6)
    for name, (values, weights) in losses(policy, batch).items():
        assert masked_mean(*losses(policy, longer)[name]) == pytest.approx(
            masked_mean(values, weights).item(), rel=1e-5
        )


def test_a_padded_window_weighs_as_much_as_its_real_steps(policy: Policy, batch: Batch) -> None:
    """Invariant 8: the batch's loss is the mean over its real steps, wherever they lie."""
    for values, weights in losses(policy, batch).values():
        expected = values[weights.bool()].mean()
        assert masked_mean(values, weights).item() == pytest.approx(expected.item(), rel=1e-6)


def test_every_trained_parameter_has_a_gradient(policy: Policy, batch: Batch) -> None:
    """DDP waits forever for a parameter that no loss reaches."""
    means = [masked_mean(*loss) for loss in losses(policy, batch).values()]
    torch.stack(means).sum().backward()
    without = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_what_was_fitted_travels_with_the_weights(policy: Policy, store: EpisodeStore) -> None:
    mean, _ = store.observation_statistics
    found = [t for t in policy.state_dict().values() if t.shape == mean.shape]
    assert any(torch.allclose(t.double(), torch.as_tensor(mean), atol=1e-5) for t in found)
