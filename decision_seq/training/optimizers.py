"""Registry of optimizers from torch or another maintained package.

To add one: write a frozen config that inherits `OptimizerConfig`, registers itself and builds a
`torch.optim.Optimizer`. Checkpoints save the optimizer's tensors under its own names for them.
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
    """An optimizer's settings, with their defaults."""

    moments: ClassVar[tuple[str, ...]] = ()
    """Names of its tensors that have a weight's shape."""
    counts: ClassVar[tuple[str, ...]] = ()
    """Names of its tensors that hold one number per weight."""
    group_counts: ClassVar[tuple[str, ...]] = ()
    """Names of the numbers that it counts in each parameter group."""
    graphs: ClassVar[bool] = False
    """Whether a CUDA graph can contain its step."""
    shards: ClassVar[bool] = True
    """Whether it computes element by element, so that it can step on a shard of a weight."""

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
        """The optimizer. groups: parameter groups, each with its `weight_decay`."""
        raise NotImplementedError


@OptimizerConfig.register_subclass("adamw")
@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, 2019), from PyTorch: decay is not part of the gradient."""

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
    """Adam (Kingma and Ba, 2015), from PyTorch: decay is added to the gradient."""

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
    """RMSprop (Tieleman and Hinton, 2012), from PyTorch; `train.betas` is not used."""

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
    """LAMB (You et al., 2020), from pytorch-optimizer: a trust ratio for each weight."""

    moments = ("exp_avg", "exp_avg_sq")
    group_counts = ("step",)
    shards = False  # the ratio needs whole weights

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
