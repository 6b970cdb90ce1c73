"""Tests of weight decay and of the learning rate's schedule."""

import pytest
import torch

from decision_seq.models.backbones import GPTConfig
from decision_seq.models.encoders import ImageConfig
from decision_seq.models.positions import WindowConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.training import TrainConfig
from decision_seq.training.groups import make_optimizer
from decision_seq.types import Spec, UserError


def test_decay_acts_on_weights_of_layers_alone_where_asked() -> None:
    config = DecisionTransformerConfig(
        3, GPTConfig(1, 2, 16), ImageConfig((4, 4, 4)), WindowConfig(), squash=True
    )
    policy = config.build(Spec((4, 36, 36), 3, "discrete", 1, 10))
    named = dict(policy.named_parameters())
    for decay, spared in (
        ("all", set()),
        ("weights", {"bias", "norm.weight", "place", "begin.weight", "actions.embed.weight"}),
    ):
        train = TrainConfig(weight_decay=0.5, decay=decay, betas=(0.9, 0.95))
        optimizer = make_optimizer(policy, train)
        assert all(group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)
        found = {
            id(weight): group["weight_decay"]
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        assert found.keys() == {id(weight) for weight in named.values()}
        for name, weight in named.items():
            ending = any(name.endswith(part) for part in spared)
            assert found[id(weight)] == (0.0 if ending else 0.5), name
    # Decay has an effect: without gradients, only decayed weights become smaller.
    before = {name: weight.detach().clone() for name, weight in named.items()}
    for weight in named.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert named["actions.head.weight"].abs().sum() < before["actions.head.weight"].abs().sum()
    assert torch.equal(named["actions.embed.weight"], before["actions.embed.weight"])


def test_what_must_not_decay_never_does() -> None:
    spec = Spec((4,), 2, "continuous", 1, 10)
    policy = DecisionTransformerConfig(3, GPTConfig(1, 2, 16), head="stochastic").build(spec)
    for decay in ("all", "weights"):
        optimizer = make_optimizer(policy, TrainConfig(weight_decay=0.5, decay=decay))
        decayed = {id(w) for g in optimizer.param_groups if g["weight_decay"] for w in g["params"]}
        assert id(policy.actions.log_temperature) not in decayed
        assert id(policy.actions.log_std.weight) in decayed
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len([*policy.parameters()])


def test_the_rate_falls_to_its_floor_and_stays_there() -> None:
    config = TrainConfig(
        steps=1000, warmup_steps=10, schedule="cosine", learning_rate=2.0, floor=0.1
    )
    rates = [config.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates[500] == pytest.approx(1.0, abs=0.05)
    assert rates[-1] == min(rates[10:]) == pytest.approx(0.2)
    assert config.rate(820) == pytest.approx(0.2)  # cos reaches a tenth at 79.5 %


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"floor": 1.5}, "train.floor 1.5"),
        ({"betas": (0.9, 1.0)}, "train.betas 1.0"),
        ({"decay": "some"}, "train.decay 'some' is unknown; one of all, weights"),
    ],
)
def test_a_bad_optimiser_is_refused(keys: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TrainConfig(**keys)
