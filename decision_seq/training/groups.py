"""Parameter groups: their weight decay and their learning rate."""

from __future__ import annotations

import torch
from torch import nn

from decision_seq.policies import Policy
from decision_seq.training.config import TrainConfig
from decision_seq.training.optimizers import Groups

LR_SCALE = "lr_scale"  # a group's own factor of the learning rate


def make_optimizer(policy: Policy, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimizer over all trained parameters."""
    groups = make_groups(policy, config.decay, config.weight_decay)
    return config.optimizer.build(groups, config.learning_rate, config.betas)


def make_groups(policy: Policy, decay: str, weight_decay: float) -> Groups:
    """The policy's parameter groups, each split into parameters with and without weight decay.

    decay: `all` parameters, or the `weights` of linear layers and convolutions. A module's
    `undecayed` parameters have no decay. A group with its own `weight_decay` is not split.
    """
    matrices = {
        module.weight
        for module in policy.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.requires_grad
    }
    undecayed = {w for module in policy.modules() for w in getattr(module, "undecayed", ())}
    groups: Groups = []
    for group in policy.parameter_groups():
        group = {**group, "params": [w for w in group["params"] if w.requires_grad]}
        if "weight_decay" in group:
            groups.append(group)
            continue
        decays = [w not in undecayed and (decay == "all" or w in matrices) for w in group["params"]]
        for wanted, strength in ((True, weight_decay), (False, 0.0)):
            members = [w for w, yes in zip(group["params"], decays, strict=True) if yes == wanted]
            groups.append({**group, "params": members, "weight_decay": strength})
    return [group for group in groups if group["params"]]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, times each group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_SCALE, 1.0)
