"""Moving average of a policy's weights, used for evaluations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from decision_seq.policies import Policy


class Averages:
    """Exponential moving averages of all trained weights: average = decay average + (1 - decay) w.

    `state_dict` has the names and shapes of the policy's. Tensors that are not trained are the
    policy's own.
    """

    def __init__(self, policy: Policy, decay: float) -> None:
        self.policy, self.move = policy, get_ema_multi_avg_fn(decay)
        trained = [(n, w) for n, w in policy.named_parameters() if w.requires_grad]
        self.trained = [weight for _, weight in trained]
        self.values = {name: weight.detach().clone() for name, weight in trained}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the current weights."""
        self.move(list(self.values.values()), [w.detach() for w in self.trained], 0)

    def state_dict(self) -> dict[str, Tensor]:
        """The policy's `state_dict`, with averages in place of the trained weights."""
        return {**self.policy.state_dict(), **self.values}
