"""GPT: the pre-norm causal transformer of the Decision Transformer (Chen et al., 2021).

As in its code the position table of GPT-2 is absent: the policy embeds timesteps instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.models.backbones.base import Backbone, BackboneConfig
from decision_seq.models.layers import ACTIVATIONS, Block, Dropout, Read


@BackboneConfig.register_subclass("gpt")
@dataclass(frozen=True)
class GPTConfig(BackboneConfig):
    """Defaults: kzl/decision-transformer gym/experiment.py."""

    layers: int = 3
    heads: int = 1
    width: int = 128
    dropout: float = 0.1
    activation: str = "relu"

    def __post_init__(self) -> None:
        where = "config: policy.backbone."
        for key in ("layers", "heads", "width"):
            value = getattr(self, key)
            require(value >= 1, f"{where}{key} {value} must be at least 1")
        for key, most in (
            ("layers", 1_000),
            ("width", 65_536),
        ):  # else it is built until memory ends
            value = getattr(self, key)
            require(value <= most, f"{where}{key} {value} must be at most {most:,}")
        fits = self.width % self.heads == 0
        require(fits, f"{where}width {self.width} does not divide into {self.heads} heads")
        require(0 <= self.dropout < 1, f"{where}dropout {self.dropout} must be in [0, 1)")
        known = ", ".join(ACTIVATIONS)
        named = self.activation in ACTIVATIONS
        require(named, f"{where}activation {self.activation!r} is unknown; one of {known}")

    def build(self) -> GPT:
        return GPT(self)


class GPT(Backbone):
    """Dropout on the embeddings, blocks, final LayerNorm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.width = config.width
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout, config.activation)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(_initialise)

    def forward(self, tokens: Tensor, read: Read | None = None) -> Tensor:
        """tokens [B, L, D] -> hidden [B, R, D]; the last block computes `read` alone."""
        tokens = self.dropout(tokens)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        return self.norm(last(tokens, read))


def _initialise(module: nn.Module) -> None:
    """Normal(0, 0.02) weights and zero biases (GPT-2)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
