"""Tests of the moving average of the weights, by which a policy is evaluated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.evaluation import evaluate_checkpoint
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.training import TrainConfig
from decision_seq.training.averages import Averages
from decision_seq.types import Spec, UserError
from tests.conftest import seal
from tests.test_train import TINY, losses

DECAY = 0.5


@pytest.fixture
def train(write_d4rl: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    dataset = write_d4rl()

    def train(name: str, steps: int = 6, resume: str = "never", **asked: Any) -> Path:
        chosen = {"ema": DECAY, "checkpoint_every": 1, "keep_checkpoints": 9, "trackers": []}
        settings = {"steps": steps, "learning_rate": 0.01, **chosen, **asked}
        evaluation = settings.pop("evaluation", {})
        tree = {"dataset": str(dataset), "train": settings, "evaluation": evaluation}
        experiment.train(configs.load(Config, TINY, tree), tmp_path / name, resume)
        return tmp_path / name

    return train


def tensors(run: Path, step: int, name: str) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / name)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def test_averages_are_those_of_a_plain_loop() -> None:
    spec = Spec((4,), 2, "continuous", 1, 10)
    policy = DecisionTransformerConfig(3, GPTConfig(1, 1, 8)).build(spec)
    averages = Averages(policy, 0.9)
    expected = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    assert same(averages.state_dict(), policy.state_dict())
    torch.manual_seed(0)
    for _ in range(5):
        with torch.no_grad():
            for weight in policy.parameters():
                weight += torch.randn_like(weight)
        averages.update()
        for name, weight in policy.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * weight.detach()
    policy.encoder.mean += 3  # what is not trained is the policy's own
    found = averages.state_dict()
    for name, average in expected.items():
        torch.testing.assert_close(found[name], average)
    assert torch.equal(found["encoder.mean"], policy.encoder.mean)
    assert found.keys() == policy.state_dict().keys()


def test_a_checkpoint_holds_both(train: Callable[..., Path]) -> None:
    """The raw weights are those of a run without averages, and a policy acts by the averages."""
    run, plain = train("with"), train("without", ema=None)
    assert losses(run) == losses(plain)
    averages = tensors(run, 1, checkpoint.WEIGHTS)
    trained = {name for name, value in averages.items() if not name.startswith("encoder.mean")}
    for step in range(2, 7):
        raw = tensors(run, step, checkpoint.TRAINED)
        assert same(raw, tensors(plain, step, checkpoint.WEIGHTS))
        found = tensors(run, step, checkpoint.WEIGHTS)
        for name in trained:
            expected = DECAY * averages[name] + (1 - DECAY) * raw[name]
            torch.testing.assert_close(found[name], expected)
        averages = found
    assert any((averages[name] != raw[name]).any() for name in raw)
    assert same(checkpoint.load(run).policy.state_dict(), averages)
    last = checkpoint.find(plain)
    assert not (last / checkpoint.TRAINED).exists()


def test_an_evaluation_acts_by_the_averages(train: Callable[..., Path]) -> None:
    asked = {"episodes": 2, "targets": [300.0], "env_id": "Hopper-v5"}
    run, plain = (train(f"ema {ema}", ema=ema, evaluation=asked) for ema in (0.9, None))
    found, other = (
        [score.returns for score in evaluate_checkpoint(checkpoint.find(at)).targets]
        for at in (run, plain)
    )
    assert found != other
    for at, expected in ((run, found), (plain, other)):
        during = configs.read_yaml(at / "scores.json")["targets"]
        assert [score["returns"] for score in during] == expected


def test_a_resumed_run_is_the_same_to_the_bit(train: Callable[..., Path]) -> None:
    whole = train("whole")
    train("parts", steps=3)
    parts = train("parts", resume="auto")
    assert losses(parts) == losses(whole)
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINED, checkpoint.MOMENTS):
        assert same(tensors(parts, 6, name), tensors(whole, 6, name))


@pytest.mark.parametrize("damage", ["shape", "missing", "NaN"])
def test_averages_that_do_not_fit_are_refused(train: Callable[..., Path], damage: str) -> None:
    run = train("run", steps=3)
    path = checkpoint.find(run)
    averages = checkpoint.read_weights(path)
    if damage == "shape":
        averages["actions.head.bias"] = torch.zeros(7)
    elif damage == "missing":
        del averages["actions.head.bias"]
    else:
        averages["actions.head.bias"][0] = torch.nan
    save_file(averages, path / checkpoint.WEIGHTS)
    seal(path)
    with pytest.raises(UserError, match=r"does not fit this policy: actions\.head\.bias|holds NaN"):
        train("run", resume="auto")


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"train\.ema"):
        TrainConfig(ema=decay)
