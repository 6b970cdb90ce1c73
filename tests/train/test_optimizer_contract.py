"""Every optimizer of the registry, over a small policy."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.train import TrainConfig
from decision_seq.train.groups import make_optimizer, set_rate
from decision_seq.train.optimizers import OptimizerConfig
from decision_seq.train.parallel import fill_moments, full_moments
from decision_seq.types import Spec, UserError

ALONE = SimpleNamespace(
    num_processes=1, process_index=0, is_main_process=True, device=torch.device("cpu")
)


@pytest.fixture(params=sorted(OptimizerConfig.get_known_choices()))
def chosen(request: pytest.FixtureRequest) -> OptimizerConfig:
    return OptimizerConfig.get_choice_class(request.param)()


def made(
    chosen: OptimizerConfig, decay: float = 0.1, seed: int = 0
) -> tuple[Policy, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    policy = DecisionTransformerConfig(3, GPTConfig(1, 2, 16)).build(
        Spec((4,), 2, "continuous", 1, 10)
    )
    config = TrainConfig(optimizer=chosen, weight_decay=decay, learning_rate=0.01)
    try:
        return policy, make_optimizer(policy, config)
    except UserError as error:
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))


def trained(policy: Policy) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, w) for name, w in policy.named_parameters() if w.requires_grad)


def step(policy: Policy, optimizer: torch.optim.Optimizer, seed: int | None) -> None:
    """One update by random gradients, or by zeros."""
    rng = torch.Generator().manual_seed(seed or 0)
    for _, weight in trained(policy):
        drawn = torch.randn(weight.shape, generator=rng)
        weight.grad = drawn if seed is not None else torch.zeros_like(weight)
    optimizer.step()


def moved(policy: Policy, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, w in trained(policy) if not torch.equal(w, before[name])]


def copied(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def test_what_it_remembers_has_the_names_it_says(chosen: OptimizerConfig) -> None:
    policy, optimizer = made(chosen)
    step(policy, optimizer, 1)
    for name, weight in trained(policy):
        state = optimizer.state[weight]
        assert {*chosen.moments, *chosen.counts} <= set(state), name
        for key, value in state.items():  # LAMB's keeps norms too, which a step only records
            assert value.shape == (weight.shape if key in chosen.moments else ()), key


def test_restored_it_repeats_the_next_step_to_the_bit(chosen: OptimizerConfig) -> None:
    policy, optimizer = made(chosen)
    for seed in (1, 2):
        step(policy, optimizer, seed)
    other, again = made(chosen, seed=9)
    other.load_state_dict(policy.state_dict())
    saved = {name: value.clone() for name, value in full_moments(optimizer, policy).items()}
    counts = [{k: v for k, v in g.items() if k == "step"} for g in optimizer.param_groups]
    fill_moments(again, other, saved, counts, ALONE)
    for seed in (3, 4):
        step(policy, optimizer, seed)
        step(other, again, seed)
    assert moved(other, copied(policy)) == []


def test_the_rate_and_the_decay_have_an_effect(chosen: OptimizerConfig) -> None:
    policy, optimizer = made(chosen)
    before = copied(policy)
    set_rate(optimizer, 0.0)
    step(policy, optimizer, 1)
    assert moved(policy, before) == []
    for decay in (0.0, 0.5):
        policy, optimizer = made(chosen, decay)
        before = copied(policy)
        step(policy, optimizer, None)
        assert bool(moved(policy, before)) == (decay > 0)
