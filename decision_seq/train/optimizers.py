"""Optimizers: a registry of those that torch or a well-kept package has.

To add one: a frozen config that inherits `OptimizerConfig`, registers itself and builds a
`torch.optim.Optimizer`. Its tensors are saved and restored by the names that it gives them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import draccus
import torch

from decision_seq.config import require
from decision_seq.types import UserError

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class OptimizerConfig(draccus.ChoiceRegistry):
    """An optimizer's settings and the only place of their defaults.

    moments: names of its tensors of a weight's shape. counts: names of its single numbers a weight.
    group_counts: names of the numbers that it counts in each parameter group.
    graphs: whether a CUDA graph can hold its step. shards: whether it computes element by element,
    so that it can step on a shard of a weight.
    """

    moments: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[tuple[str, ...]] = ()
    group_counts: ClassVar[tuple[str, ...]] = ()
    graphs: ClassVar[bool] = False
    shards: ClassVar[bool] = True

    eps: float = 1e-8
    """Added to the denominator of the step."""

    def __post_init__(self) -> None:
        fine = 0 < self.eps < math.inf
        require(fine, f"config: train.optimizer.eps {self.eps} must be above 0, and finite")

    @classmethod
    def default_choice_name(cls) -> str:
        return "adamw"

    def build(
        self, groups: Groups, learning_rate: float, betas: tuple[float, float]
    ) -> torch.optim.Optimizer:
        """groups: of parameters, each with its `weight_decay`. betas: of the moving averages."""
        raise NotImplementedError


@OptimizerConfig.register_subclass("adamw")
@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, 2019), PyTorch's: decay apart from the gradient."""

    moments = ("exp_avg", "exp_avg_sq")
    counts = ("step",)
    graphs = True

    def build(
        self, groups: Groups, learning_rate: float, betas: tuple[float, float]
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, learning_rate, betas, self.eps, fused=True)


@OptimizerConfig.register_subclass("adam")
@dataclass(frozen=True)
class AdamConfig(OptimizerConfig):
    """Adam (Kingma and Ba, 2015), PyTorch's: decay is added to the gradient."""

    moments = ("exp_avg", "exp_avg_sq")
    counts = ("step",)
    graphs = True

    def build(
        self, groups: Groups, learning_rate: float, betas: tuple[float, float]
    ) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, learning_rate, betas, self.eps, fused=True)


@OptimizerConfig.register_subclass("rmsprop")
@dataclass(frozen=True)
class RMSpropConfig(OptimizerConfig):
    """RMSprop (Tieleman and Hinton, 2012), PyTorch's; `train.betas` is not used."""

    moments = ("square_avg",)
    counts = ("step",)

    alpha: float = 0.99
    """Decay of the moving average of squared gradients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = self.alpha
        require(0 <= alpha < 1, f"config: train.optimizer.alpha {alpha} must be in [0, 1)")

    def build(
        self, groups: Groups, learning_rate: float, betas: tuple[float, float]
    ) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(groups, learning_rate, self.alpha, self.eps, foreach=True)


@OptimizerConfig.register_subclass("lamb")
@dataclass(frozen=True)
class LambConfig(OptimizerConfig):
    """LAMB (You et al., 2020), of the package pytorch-optimizer: a trust ratio for each weight."""

    moments = ("exp_avg", "exp_avg_sq")
    group_counts = ("step",)  # its bias correction depends on it
    shards = False  # the ratio is that of whole weights

    eps: float = 1e-6
    """Added to the denominator of the step."""

    def build(
        self, groups: Groups, learning_rate: float, betas: tuple[float, float]
    ) -> torch.optim.Optimizer:
        try:
            from pytorch_optimizer import Lamb
        except ImportError as error:
            raise UserError(
                "config: train.optimizer.name lamb needs the package pytorch-optimizer; install it"
                " by pip install 'decision-seq[optimizers]'"
            ) from error
        return Lamb(groups, learning_rate, betas, eps=self.eps)
