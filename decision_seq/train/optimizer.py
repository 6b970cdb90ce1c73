"""AdamW, and what its decay acts on."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from decision_seq.policies import Policy
from decision_seq.train.config import TrainConfig


def make_optimizer(policy: Policy, config: TrainConfig) -> AdamW:
    """AdamW over all that is trained, with the decay where the config wants it."""
    matrices = {
        module.weight
        for module in policy.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.requires_grad
    }
    kept = {w for module in policy.modules() for w in getattr(module, "undecayed", ())}
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    decays = {w: w not in kept and (config.decay == "all" or w in matrices) for w in trained}
    spared = [w for w in trained if not decays[w]]
    decayed = [w for w in trained if decays[w]]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return AdamW([g for g in groups if g["params"]], config.learning_rate, config.betas, fused=True)
