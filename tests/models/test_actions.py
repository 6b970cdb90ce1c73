import torch
import torch.nn.functional as F

from decision_seq.models.actions import ContinuousActions, DiscreteActions, make_actions
from decision_seq.types import Spec


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
