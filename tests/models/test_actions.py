import torch
import torch.nn.functional as F

from decision_seq.models.actions import ContinuousActions, DiscreteActions, make_actions
from decision_seq.types import Sampling, Spec


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
    actions = DiscreteActions(5, 8)
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
    # The likeliest choice is the one that would cost least.
    each = torch.stack([actions.loss(hidden, torch.full((3, 4), a)) for a in range(5)], -1)
    assert torch.equal(chosen, each.argmin(-1))
    assert torch.allclose(F.softmax(logits, -1).amax(-1).log(), -each.amin(-1))


@torch.no_grad()
def test_choices_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    actions = DiscreteActions(5, 8)
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
    """The sum of probabilities may stay below the largest draw, and 0 is a draw."""
    actions = DiscreteActions(3, 2)
    actions.head.weight.zero_()
    actions.head.bias.copy_(torch.tensor([-200.0, 0.0, -200.0]))  # only the second can be
    draws = torch.tensor([0.0, 0.5, 1 - 2**-24])
    chosen = actions.choose(torch.zeros(3, 2), Sampling(draws, 1.0))
    assert chosen.tolist()[:2] == [1, 1]
    assert chosen.max() <= 2
