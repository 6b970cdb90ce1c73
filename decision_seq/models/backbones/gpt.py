"""GPT: the pre-norm causal transformer of the Decision Transformer (Chen et al., 2021).

As in its code, GPT-2's position table is absent; the policy embeds timesteps instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.models.backbones.base import Backbone, BackboneConfig, Seen, State
from decision_seq.models.fast.kv_cache import Cache, CacheShape, extend_block
from decision_seq.models.layers import ACTIVATIONS, Block, Dropout, Read, causal_mask


@BackboneConfig.register_subclass("gpt")
@dataclass(frozen=True)
class GPTConfig(BackboneConfig):
    """A GPT. Defaults: kzl/decision-transformer gym/experiment.py."""

    layers: int = 3
    """Number of transformer blocks."""
    heads: int = 1
    """Attention heads of a block; the width must be a multiple of it."""
    width: int = 128
    """Width of the tokens."""
    dropout: float = 0.1
    """Dropout on the embeddings, the attention weights and after each half of a block."""
    activation: str = "relu"
    """Activation of the blocks' hidden layer: relu or gelu."""

    def __post_init__(self) -> None:
        where = "config: policy.backbone."
        for key in ("layers", "heads", "width"):
            value = getattr(self, key)
            require(value >= 1, f"{where}{key} {value} must be at least 1")
        for key, most in (
            ("layers", 1_000),
            ("width", 65_536),
        ):  # larger ones exhaust the memory
            value = getattr(self, key)
            require(value <= most, f"{where}{key} {value} must be at most {most:,}")
        fits = self.width % self.heads == 0
        require(fits, f"{where}width {self.width} does not divide into {self.heads} heads")
        require(0 <= self.dropout < 1, f"{where}dropout {self.dropout} must be in [0, 1)")
        known = ", ".join(ACTIVATIONS)
        named = self.activation in ACTIVATIONS
        require(named, f"{where}activation {self.activation!r} is unknown; one of {known}")

    def build(self, seen: Seen | None = None) -> GPT:
        return GPT(self, seen)


class GPT(Backbone):
    """Transformer: dropout on the embeddings, blocks and a final LayerNorm."""

    shows_attention = True
    hides = True
    seen: Tensor | None

    def __init__(self, config: GPTConfig, seen: Seen | None = None) -> None:
        super().__init__()
        self.width, self.heads = config.width, config.heads
        self.places = seen
        rule = None if seen is None else torch.tensor(seen)
        self.register_buffer("seen", rule, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout, config.activation)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(_initialise)

    def forward(
        self, tokens: Tensor, read: Read | None = None, state: State | None = None
    ) -> tuple[Tensor, None]:
        """tokens [B, L, D] -> hidden [B, R, D]; the last block computes only `read`."""
        tokens, mask = self._begun(tokens)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens, mask=mask)
        return self.norm(last(tokens, read, mask)), None

    def attention(self, tokens: Tensor) -> Tensor:
        tokens, mask = self._begun(tokens)
        weights = []
        for block in self.blocks:
            weights.append(cast(Block, block).weights(tokens, mask))
            tokens = block(tokens, mask=mask)
        return torch.stack(weights)

    def _begun(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first block's tokens, and the attention mask; None for the plain causal one."""
        if self.seen is None:
            return self.dropout(tokens), None
        length = tokens.shape[1]
        mask = causal_mask(length, slice(None), tokens.device, self.seen[:length])
        return self.dropout(tokens), mask

    def begin(self, rows: int, shared: bool = True) -> Cache:
        size = self.width // self.heads
        shape = CacheShape(len(self.blocks), self.heads, size, self.norm.weight)
        return Cache(shape, rows, shared)

    def extend(self, tokens: Tensor, cache: Cache, lengths: Tensor | None = None) -> Tensor:
        """The same values as `forward` over all tokens, computed only for the new ones."""
        tokens, count = self.dropout(tokens), tokens.shape[1]
        kept = list(range(count))
        if self.places is not None:
            kept = [i for i in kept if self.places[cache.count + i]]
        visible = None
        if count > 1:
            places = torch.arange(count, device=tokens.device)
            visible = places[kept] <= places[:, None]  # [q, k]
        cache.reserve(len(kept))
        for index, block in enumerate(self.blocks):
            tokens = extend_block(cast(Block, block), tokens, cache, index, kept, visible)
        cache.advance(count, len(kept))
        if lengths is not None:
            padding = (torch.arange(count, device=tokens.device) >= lengths[:, None])[:, kept]
            cache.levels[-1].padding = padding if padding.any() else None
        return self.norm(tokens)


def _initialise(module: nn.Module) -> None:
    """Normal(0, 0.02) weights and zero biases (GPT-2)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
