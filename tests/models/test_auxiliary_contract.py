"""Every auxiliary loss of the registry, on the features of a Decision Transformer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import yaml
from torch import Tensor

from decision_seq.cli import main
from decision_seq.datasets.store import EpisodeStore
from decision_seq.models.auxiliary import Auxiliary, AuxiliaryConfig, Features
from decision_seq.models.auxiliary.base import Sizes
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.training import masked_mean
from decision_seq.training.update import Update
from decision_seq.types import Batch, Spec
from tests.test_train import TINY

NAMES = sorted(AuxiliaryConfig.get_known_choices())
LENGTH, LABEL = 8, "extra"
INPUTS = ("observations", "actions", "rewards", "conditions")


def build(name: str, spec: Spec, weight: float = 1.0) -> Policy:
    torch.manual_seed(0)
    loss = AuxiliaryConfig.get_choice_class(name)(weight=weight)
    backbone = GPTConfig(1, 1, 16, 0.0)
    config = DecisionTransformerConfig(LENGTH, backbone, auxiliary={LABEL: loss})
    return config.build(spec).eval()


@pytest.fixture
def batch(gatherer: WindowGatherer) -> Batch:
    """First windows of an episode, middle ones, and short ones at its end (rows 28, 36, 88)."""
    return gatherer.gather(torch.tensor([0, 3, 28, 36, 60, 88]).numpy()).tensors()


def learnt(policy: Policy, batch: Batch, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Values and weights, [B, T] each, both with the same random draws, as in an update."""
    rng = torch.Generator()
    weights = policy.weights(batch, rng.manual_seed(seed))[LABEL]
    return policy(batch, rng.manual_seed(seed)).losses[LABEL], weights


def loss_of(policy: Policy) -> Auxiliary:
    found = policy.auxiliary[LABEL]
    assert isinstance(found, Auxiliary)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_has_a_value_at_every_step(name: str, spec: Spec, batch: Batch) -> None:
    policy = build(name, spec)
    values, weights = learnt(policy, batch)
    assert values.shape == weights.shape == batch.mask.shape
    assert values.isfinite().all()
    assert (weights >= 0).all()
    assert weights.any()
    assert not weights[~batch.mask].any()
    again, others = learnt(policy, batch)
    assert torch.equal(values, again)
    assert torch.equal(weights, others)
    other_draws = learnt(policy, batch, seed=1)
    assert loss_of(policy).draws or torch.equal(values, other_draws[0])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_counts_is_known_without_parameters(name: str, spec: Spec, batch: Batch) -> None:
    policy = build(name, spec)
    rng = torch.Generator()
    before = loss_of(policy).counted(batch, rng.manual_seed(0))
    for weight in policy.parameters():
        weight.fill_(torch.nan)
    assert torch.equal(loss_of(policy).counted(batch, rng.manual_seed(0)), before)


def changed(batch: Batch, where: Tensor, size: float) -> Batch:
    """Noise in the steps `where` [B, T]."""
    draw = torch.Generator().manual_seed(2)
    arrays = {}
    for name in INPUTS:
        array = getattr(batch, name)
        noise = torch.randn(array.shape, generator=draw) * size
        arrays[name] = torch.where(where.view(*where.shape, *[1] * (array.ndim - 2)), noise, array)
    return replace(batch, **arrays)


@torch.no_grad()
def check_no_future(name: str, spec: Spec, batch: Batch) -> None:
    """Noise after step t changes no value up to t, but of a loss that says that it looks ahead."""
    policy = build(name, spec)
    if loss_of(policy).looks_ahead:
        return
    values, _ = learnt(policy, batch)
    for step in range(1, LENGTH):
        later = (torch.arange(LENGTH) >= step).expand(batch.mask.shape)
        other, _ = learnt(policy, changed(batch, later, 20))
        torch.testing.assert_close(other[:, :step], values[:, :step], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_sees_the_future(name: str, spec: Spec, batch: Batch) -> None:
    check_no_future(name, spec, batch)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_padding_changes_nothing_that_counts(name: str, spec: Spec, batch: Batch) -> None:
    policy = build(name, spec)
    assert (~batch.mask).any(1).sum() == 3
    values, weights = learnt(policy, batch)
    others, other_weights = learnt(policy, changed(batch, ~batch.mask, 100))
    assert torch.equal(weights, other_weights)
    real = weights.bool()
    torch.testing.assert_close(others[real], values[real])


@pytest.mark.parametrize("name", NAMES)
def test_its_parameters_and_the_encoder_learn(name: str, spec: Spec, batch: Batch) -> None:
    policy = build(name, spec)
    masked_mean(*learnt(policy, batch)).backward()
    trained = [(n, p) for n, p in loss_of(policy).named_parameters() if p.requires_grad]
    for parameter in (p for _, p in trained):
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert [n for n, p in trained if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is not None and p.grad.any() for p in policy.encoder_module().parameters())


class Peek(Auxiliary):
    """The distance to the next encoded observation; it does not say that it looks ahead."""

    def learn(self, features: Features, batch: Batch, rng: torch.Generator) -> Tensor:
        following = features.observations.roll(-1, 1)
        return (features.observations - following).square().mean(-1)


@dataclass(frozen=True)
class PeekConfig(AuxiliaryConfig):
    def build(self, spec: Spec, sizes: Sizes) -> Peek:
        return Peek()


class Slow(Auxiliary):
    """The distance to what the encoder's slowly moving copy makes of an observation."""

    momentum = 0.9

    def learn(self, features: Features, batch: Batch, rng: torch.Generator) -> Tensor:
        assert features.momentum is not None
        aim = features.momentum(batch.observations)
        assert not aim.requires_grad
        return (features.encode(batch.observations) - aim).square().mean(-1)


@dataclass(frozen=True)
class SlowConfig(AuxiliaryConfig):
    def build(self, spec: Spec, sizes: Sizes) -> Slow:
        return Slow()


def test_a_loss_that_peeks_is_caught(
    spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AuxiliaryConfig._choice_registry, "peek", PeekConfig)
    assert "peek" in AuxiliaryConfig.get_known_choices()
    with pytest.raises(AssertionError):
        check_no_future("peek", spec, batch)
    monkeypatch.setattr(Peek, "looks_ahead", True)
    check_no_future("peek", spec, batch)


def test_an_update_moves_the_slow_copy(
    spec: Spec, batch: Batch, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AuxiliaryConfig._choice_registry, "slow", SlowConfig)
    policy = build("slow", spec)
    values, _ = learnt(policy, batch)
    assert (values == 0).all()  # a copy to begin with
    slow, encoder = policy.momentum_encoder, policy.encoder_module()
    assert slow is not None
    # Fitted after the copy was made: at first both encode alike.
    policy.fit(store, label(store, ReturnToGo(10.0)))
    values, _ = learnt(policy, batch)
    torch.testing.assert_close(values, torch.zeros_like(values))
    before = [weight.clone() for weight in slow.parameters()]
    assert not any(weight.requires_grad for weight in slow.parameters())
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 1
    assert all(map(torch.equal, slow.parameters(), before))
    policy.after_step()
    for moved, old, trained in zip(slow.parameters(), before, encoder.parameters(), strict=True):
        torch.testing.assert_close(moved, 0.9 * old + 0.1 * trained)
    values, _ = learnt(policy, batch)
    assert (values > 0).all()


def test_the_sum_that_is_minimised_has_its_factor(spec: Spec) -> None:
    policy = build(NAMES[0], spec, weight=0.25)
    shares = {"action": torch.tensor(3.0), LABEL: torch.tensor(8.0)}
    summed = Update.total(cast(Update, SimpleNamespace(policy=policy)), shares)
    assert summed.item() == 3 + 0.25 * 8


def test_a_run_logs_it_without_its_factor(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    """The loss of a run is that of the action and 0.1 times the auxiliary one."""
    run, chosen = tmp_path / "run", tmp_path / "tiny.yaml"
    chosen.write_text(yaml.safe_dump(TINY))
    arguments = ["train", "--config", str(chosen), "--dataset", str(write_d4rl())]
    arguments += ["--train.steps", "3", "--output", str(run), "--policy.auxiliary"]
    assert main([*arguments, "{inverse: {name: inverse_dynamics, weight: 0.1}}"]) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    for record in records:
        assert record["loss_weight/inverse"] == 0.1
        assert record["loss/inverse"] > 0
        expected = record["loss/action"] + 0.1 * record["loss/inverse"]
        assert record["loss"] == pytest.approx(expected, rel=1e-6)
