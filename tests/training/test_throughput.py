import pytest
import torch

from decision_seq.models.backbones import State
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.policies.base import Learnt
from decision_seq.sequences.device import HostSource
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.training.throughput import Throughput, cost_of_a_window
from decision_seq.types import Batch, Spec


class Linear(Policy):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(11, 3)

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        error = self.layer(batch.observations) - batch.actions
        return Learnt({"action": error.square().mean(-1)})


def test_the_flops_of_a_window_are_those_of_its_products(gatherer: WindowGatherer) -> None:
    """One forward product and one for the weight's gradient; two FLOPs per multiply-add."""
    source = HostSource(gatherer, torch.device("cpu"))
    policy = Linear()
    cost = cost_of_a_window(policy, source)
    assert cost.flops == 2 * 2 * 11 * 3 * len(gatherer.steps)
    assert cost.tokens == len(gatherer.steps)
    assert all(weight.grad is None for weight in policy.parameters())


def test_a_transformer_costs_about_6_flops_a_parameter_and_token(
    gatherer: WindowGatherer, spec: Spec
) -> None:
    policy = DecisionTransformerConfig(context_length=8).build(spec)
    cost = cost_of_a_window(policy, HostSource(gatherer, torch.device("cpu")))
    assert cost.tokens == 3 * 8 - 1
    weights = sum(weight.numel() for weight in policy.backbone.parameters())
    # The last block's queries and MLP are computed for only a third of the tokens.
    assert 0.6 < cost.flops / (6 * weights * cost.tokens) < 1.0


def test_rates_are_those_of_the_whole_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    cost = type("Cost", (), {"flops": 1e9, "tokens": 59})()
    throughput = Throughput(64, cost, 10.0, world=2)
    for _ in range(4):
        throughput.add(0.1)
    clock[0] += 2.0
    found = throughput.read(torch.device("cpu"))
    assert found["updates_per_second"] == 2
    assert found["windows_per_second"] == 128
    assert found["tokens_per_second"] == 128 * 59
    assert found["model_tflops"] == pytest.approx(0.128)
    assert found["mfu"] == pytest.approx(0.128 / 20)
    assert found["data_wait"] == pytest.approx(0.2)
    clock[0] += 1.0
    throughput.add(0)
    assert throughput.read(torch.device("cpu"))["updates_per_second"] == 1
