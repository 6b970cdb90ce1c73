import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from decision_seq.models.actions import (
    ContinuousActions,
    DiscreteActions,
    StochasticActions,
    log_likelihood,
    make_actions,
)
from decision_seq.models.fast.counter_rng import normals
from decision_seq.types import Batch, Sampling, Spec, UserError


def choices(count: int) -> Spec:
    return Spec((3,), count, "discrete", 1, 10)


def test_the_kind_of_action_decides() -> None:
    continuous = make_actions(Spec((3,), 2, "continuous", 1, 10), 8)
    discrete = make_actions(Spec((3,), 2, "discrete", 1, 10), 8)
    assert isinstance(continuous, ContinuousActions)
    assert isinstance(discrete, DiscreteActions)
    assert continuous.embed(torch.rand(4, 5, 2)).shape == (4, 5, 8)
    assert discrete.embed(torch.randint(0, 2, (4, 5))).shape == (4, 5, 8)
    bare = make_actions(Spec((3,), 2, "discrete", 1, 10), 8, embedded=False)
    assert {name for name, _ in bare.named_parameters()} == {"head.weight", "head.bias"}


@torch.no_grad()
def test_the_loss_of_a_choice_is_its_negative_log_likelihood() -> None:
    torch.manual_seed(0)
    actions = DiscreteActions(choices(5), 8)
    hidden, taken = torch.randn(3, 4, 8), torch.randint(0, 5, (3, 4))
    logits = actions.head(hidden)
    losses = actions.loss(hidden, taken)
    assert losses.shape == (3, 4)
    for row in range(3):
        for step in range(4):
            expected = -torch.log(torch.softmax(logits[row, step], -1)[taken[row, step]])
            torch.testing.assert_close(losses[row, step], expected)
    chosen = actions.choose(hidden)
    assert chosen.dtype == torch.int64
    # The most likely choice has the lowest loss.
    each = torch.stack([actions.loss(hidden, torch.full((3, 4), a)) for a in range(5)], -1)
    assert torch.equal(chosen, each.argmin(-1))
    assert torch.allclose(F.softmax(logits, -1).amax(-1).log(), -each.amin(-1))


@torch.no_grad()
def test_choices_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    actions = DiscreteActions(choices(5), 8)
    hidden = torch.randn(1, 8).expand(20_000, 8)
    draws = (torch.arange(20_000) + 0.5) / 20_000
    for temperature in (1.0, 0.3):
        chosen = actions.choose(hidden, Sampling(draws, temperature))
        shares = torch.bincount(chosen, minlength=5) / len(draws)
        expected = torch.softmax(actions.head(hidden[0]) / temperature, -1)
        torch.testing.assert_close(shares, expected, atol=2e-4, rtol=0)
    assert (actions.choose(hidden, Sampling(draws, 1e-3)) == actions.choose(hidden)).all()


@torch.no_grad()
def test_no_draw_falls_beside_the_choices() -> None:
    """The sum of probabilities may be below the largest draw, and 0 is a possible draw."""
    actions = DiscreteActions(choices(3), 2)
    actions.head.weight.zero_()
    actions.head.bias.copy_(torch.tensor([-200.0, 0.0, -200.0]))  # only the second is possible
    draws = torch.tensor([0.0, 0.5, 1 - 2**-24])
    chosen = actions.choose(torch.zeros(3, 2), Sampling(draws, 1.0))
    assert chosen.tolist()[:2] == [1, 1]
    assert chosen.max() <= 2


@pytest.fixture
def stochastic() -> StochasticActions:
    torch.manual_seed(0)
    made = make_actions(Spec((3,), 2, "continuous", 1, 10), 8, head="stochastic")
    assert isinstance(made, StochasticActions)
    return made


def batch_of(actions: torch.Tensor, first: int = 0) -> Batch:
    """Windows with the given actions [B, T, A], starting at every 10th row of a store."""
    shape = actions.shape[:2]
    ids = first + 10 * torch.arange(shape[0])
    blank = torch.zeros(*shape, 1)
    return Batch(blank, actions, blank[..., 0], blank, blank[..., 0], blank[..., 0] == 0, ids=ids)


def independently(
    actions: StochasticActions, hidden: torch.Tensor
) -> tuple[TransformedDistribution, torch.Tensor, torch.Tensor]:
    mean = actions.head(hidden)
    deviation = torch.exp(-5 + 3.5 * (torch.tanh(actions.log_std(hidden)) + 1))
    squashed = TransformedDistribution(Normal(mean, deviation), TanhTransform(cache_size=1))
    return Independent(squashed, 1), mean, deviation


def test_the_worked_value_of_a_squashed_gaussian() -> None:
    one = torch.ones(1, dtype=torch.float64)
    found = log_likelihood(torch.atanh(0.5 * one), 0 * one, 0 * one)
    assert found.item() == pytest.approx(-0.78213, abs=1e-5)


@torch.no_grad()
def test_likelihood_and_entropy_are_those_of_torchs_own_distribution(
    stochastic: StochasticActions,
) -> None:
    stochastic.double()
    hidden = torch.randn(3, 4, 8, dtype=torch.float64)
    taken = torch.rand(3, 4, 2, dtype=torch.float64) * 1.98 - 0.99
    batch = batch_of(taken)
    found = stochastic.losses(hidden, batch, torch.Generator().manual_seed(5))
    theirs, mean, deviation = independently(stochastic, hidden)
    torch.testing.assert_close(found["action"], -theirs.log_prob(taken))
    drawn = stochastic._drawn(batch, torch.Generator().manual_seed(5))
    entropy = -theirs.log_prob(torch.tanh(mean + deviation * drawn))
    torch.testing.assert_close(found["entropy"], -0.1 * entropy)
    torch.testing.assert_close(found["temperature"], 0.1 * (entropy + 2))
    other = stochastic.losses(hidden, batch, torch.Generator().manual_seed(6))
    assert torch.equal(other["action"], found["action"])
    assert (other["entropy"] != found["entropy"]).all()


@torch.no_grad()
def test_the_entropy_of_many_draws_is_the_integral() -> None:
    """The integral, in one dimension, averages -log p over a fine grid of Gaussian quantiles."""
    torch.manual_seed(0)
    actions, hidden = StochasticActions(Spec((3,), 1, "continuous", 1, 10), 4), torch.randn(4)
    many = hidden.expand(500, 40, 4)
    found = actions.losses(many, batch_of(torch.zeros(500, 40, 1)), torch.Generator())
    mean, deviation = (part.double() for part in actions.gaussian(hidden))
    deviation = deviation.exp()
    grid = torch.special.ndtri((torch.arange(100_000).double()[:, None] + 0.5) / 100_000)
    exact = -log_likelihood(mean + deviation * grid, mean, deviation.log()).mean()
    error = 4 * (found["entropy"] / -0.1).std() / math.sqrt(20_000)
    assert abs((found["entropy"] / -0.1).mean() - exact) < error < 0.1


def test_each_loss_reaches_what_it_is_to_teach(stochastic: StochasticActions) -> None:
    """Lambda is trained only by its dual loss, and the policy only by the others."""
    hidden = torch.randn(3, 4, 8)
    found = stochastic.losses(hidden, batch_of(torch.rand(3, 4, 2)), torch.Generator())
    reached = {}
    for name, values in found.items():
        stochastic.zero_grad()
        values.sum().backward(retain_graph=True)
        parts = {"head", "log_std", "log_temperature"}
        weights = dict(stochastic.named_parameters())
        grown = {n.partition(".")[0] for n, w in weights.items() if w.grad is not None}
        reached[name] = grown & parts
    distribution = {"head", "log_std"}
    assert reached == {
        "action": distribution,
        "entropy": distribution,
        "temperature": {"log_temperature"},
    }
    # Lambda falls where the entropy is above its target; its gradient equals the loss.
    assert stochastic.log_temperature.grad.item() == pytest.approx(
        found["temperature"].sum().item(), rel=1e-5
    )


@torch.no_grad()
def test_draws_are_each_transitions_own(stochastic: StochasticActions) -> None:
    def drawn(batch: Batch, seed: int = 0) -> torch.Tensor:
        return stochastic._drawn(batch, torch.Generator().manual_seed(seed))

    whole = drawn(batch_of(torch.zeros(4, 6, 2)))
    assert torch.equal(drawn(batch_of(torch.zeros(4, 3, 2))), whole[:, :3])  # less padding
    assert torch.equal(drawn(batch_of(torch.zeros(2, 6, 2), first=20)), whole[2:])  # a part
    assert torch.equal(
        drawn(batch_of(torch.zeros(4, 2, 2), first=4)), whole[:, 4:]
    )  # later windows
    assert len(set(whole.flatten().tolist())) == whole.numel()
    assert (drawn(batch_of(torch.zeros(4, 6, 2)), 1) != whole).all()


def test_normal_numbers_are_normal() -> None:
    numbers = normals(torch.arange(20_000), 5).flatten()
    assert abs(numbers.mean()) < 0.01
    assert numbers.std() == pytest.approx(1, abs=0.01)
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999):
        edge = math.sqrt(2) * torch.special.erfinv(torch.tensor(2 * quantile - 1)).item()
        share = (numbers < edge).double().mean().item()
        assert share == pytest.approx(quantile, abs=4 * math.sqrt(quantile * (1 - quantile) / 1e5))
    columns = torch.corrcoef(normals(torch.arange(20_000), 5).T)
    assert (columns - torch.eye(5)).abs().max() < 0.03


@torch.no_grad()
def test_the_mean_is_acted_or_one_is_drawn_at_its_temperature(
    stochastic: StochasticActions,
) -> None:
    hidden = torch.randn(1, 8).expand(20_000, 8)
    mean, log_std = stochastic.gaussian(hidden[0])
    assert torch.equal(stochastic.choose(hidden)[0], torch.tanh(mean))
    draws = (torch.arange(20_000) + 0.5) / 20_000
    for temperature in (1.0, 0.25):
        before = torch.atanh(stochastic.choose(hidden, Sampling(draws, temperature)).double())
        deviation = log_std.exp() * math.sqrt(temperature)
        torch.testing.assert_close(before.mean(0).float(), mean, atol=0.03, rtol=0)
        torch.testing.assert_close(before.std(0).float(), deviation, rtol=0.03, atol=0)
        assert abs(torch.corrcoef(before.T)[0, 1]) < 0.03
    near = stochastic.choose(hidden, Sampling(draws, 1e-12))
    torch.testing.assert_close(near, stochastic.choose(hidden), atol=1e-4, rtol=0)


def test_actions_at_the_edge_have_a_finite_loss(stochastic: StochasticActions) -> None:
    edge = torch.tensor([1.0, -1.0]).expand(1, 2, 2)
    hidden = torch.randn(1, 2, 8)
    found = stochastic.losses(hidden, batch_of(edge), torch.Generator())
    inside = stochastic.losses(hidden, batch_of(edge * (1 - 1e-6)), torch.Generator())
    assert found["action"].isfinite().all()
    torch.testing.assert_close(found["action"], inside["action"])
    found["action"].sum().backward()
    assert stochastic.log_std.weight.grad.isfinite().all()


def test_a_choice_has_no_gaussian() -> None:
    with pytest.raises(UserError, match=r"policy\.head stochastic is not for discrete actions"):
        make_actions(Spec((3,), 2, "discrete", 1, 10), 8, head="stochastic")
