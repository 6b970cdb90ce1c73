"""Layers of a pre-norm causal transformer.

Shapes: B sequences, L tokens, D width, H heads, R positions that are read (see `Read`). What is
faster than the formulas here is in `models.fast`; `linear`, `dropout` and `attend` call it.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.models.fast.attention import written_out_helps
from decision_seq.models.fast.dropout import dropout
from decision_seq.models.fast.linear import linear

# Positions of a sequence whose outputs are computed: a slice or [R] for all rows alike, [B, R] for
# each row its own.
Read = slice | Tensor


def select(tokens: Tensor, read: Read) -> Tensor:
    """The tokens at the positions read: [B, L, D] -> [B, R, D]."""
    if row_by_row(read):
        return tokens.gather(1, read[:, :, None].expand(-1, -1, tokens.shape[2]))
    return tokens[:, read]


def row_by_row(read: Read) -> TypeGuard[Tensor]:
    """Whether each row has positions of its own, [B, R]."""
    return isinstance(read, Tensor) and read.ndim == 2


def causal_mask(
    length: int, read: Read, device: torch.device, seen: Tensor | None = None
) -> Tensor:
    """Causal attention mask for the queries at the positions read: [R, L], or [B, 1, R, L].

    True = may attend. seen: [L], False at positions that no query attends to; None: all True.
    """
    positions = torch.arange(length, device=device)
    if row_by_row(read):
        mask = (positions <= read[:, :, None])[:, None]  # [B, 1, R, L]
    else:
        mask = positions <= positions[read][:, None]  # [R, L]
    return mask if seen is None else mask & seen


def mask_at(read: Read, mask: Tensor) -> Tensor:
    """The rows of a mask [L, L] at the positions read: [R, L], or [B, 1, R, L]."""
    return mask[read][:, None] if row_by_row(read) else mask[read]


class Dropout(nn.Module):
    """Dropout in training; the identity in evaluation."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    @property
    def active(self) -> bool:
        return self.training and self.probability > 0

    def forward(self, inputs: Tensor) -> Tensor:
        return dropout(inputs, self.probability) if self.active else inputs

    def extra_repr(self) -> str:
        return f"{self.probability}"


class Linear(nn.Linear):
    """A linear layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: Dropout
) -> Tensor:
    """Scaled dot-product attention: softmax(Q K' / sqrt(D / H)) V.

    query [B, H, R, D / H]; key, value [B, H, L, D / H] -> [B, H, R, D / H]. mask: [R, L] or
    [B, 1, R, L], True = may attend; None = causal. dropout: of the weights.
    """
    if written_out_helps(query, key, dropout.active):
        return dropout(attention_weights(query, key, mask)) @ value
    probability = dropout.probability if dropout.active else 0.0
    causal = mask is None
    return F.scaled_dot_product_attention(query, key, value, mask, probability, is_causal=causal)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """The weights of `attend` before dropout: [B, H, R, L], rows of sum 1."""
    if mask is None:
        mask = causal_mask(key.shape[2], slice(None), key.device)  # [L, L]
    scores = query @ key.mT  # [B, H, R, L]
    return masked_softmax(scores, mask, query.shape[3] ** -0.5)


def masked_softmax(scores: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Softmax of the scaled scores [..., R, L] over the keys where the mask is True."""
    blocked = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    return torch.add(blocked, scores, alpha=scale).softmax(-1)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention with fused query, key and value projections."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.dropout = Dropout(dropout)  # of the weights
        self.query_key_value = Linear(width, 3 * width)
        self.output = Linear(width, width)

    def forward(
        self, tokens: Tensor, read: Read | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """tokens [B, L, D] -> [B, L, D], or [B, R, D] at the positions read; mask: see `Block`."""
        if read is None:
            query, key, value = self.query_key_value(tokens).chunk(3, -1)  # [B, L, D] each
        else:
            length, device = tokens.shape[1], tokens.device
            mask = causal_mask(length, read, device) if mask is None else mask_at(read, mask)
            weight, bias = self.query_key_value.weight, self.query_key_value.bias  # [3 D, D], [3 D]
            asking = select(tokens, read)  # [B, R, D]
            query = linear(asking, weight[: self.width], bias[: self.width])  # [B, R, D]
            projected = linear(tokens, weight[self.width :], bias[self.width :])  # [B, L, 2 D]
            key, value = projected.chunk(2, -1)  # [B, L, D] each
        query, key, value = self.split(query), self.split(key), self.split(value)
        mixed = attend(query, key, value, mask, self.dropout)  # [B, H, R, D / H]
        return self.output(mixed.transpose(1, 2).flatten(2))  # [B, R, D]

    def weights(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights of `forward`, [B, H, L, L], of tokens [B, L, D]."""
        query, key, _ = self.query_key_value(tokens).chunk(3, -1)  # [B, L, D] each
        return attention_weights(self.split(query), self.split(key), mask)

    def split(self, tokens: Tensor) -> Tensor:
        """[B, L, D] -> [B, H, L, D / H]."""
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Sequential):
    """A linear layer to four times the width, an activation, a linear layer back."""

    def __init__(self, width: int, activation: str) -> None:
        expand, contract = Linear(width, 4 * width), Linear(4 * width, width)
        super().__init__(expand, ACTIVATIONS[activation](), contract)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [..., D] -> [..., D]."""
        expand, activation, contract = self
        hidden = linear(tokens, expand.weight, expand.bias, activation)  # type: ignore[arg-type]
        return contract(hidden)  # [..., 4 D] -> [..., D]


class Block(nn.Module):
    """Pre-norm transformer block: attention and an MLP, each added to its input.

    read: positions whose outputs are computed, by default all; keys and values are computed for all
    tokens. mask: [L, L], True = may attend; None = causal.
    """

    def __init__(self, width: int, heads: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        self.dropout = Dropout(dropout)

    def forward(
        self, tokens: Tensor, read: Read | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """tokens [B, L, D] -> [B, L, D] or [B, R, D]."""
        mixed = self.attention(self.attention_norm(tokens), read, mask)
        return self.after_attention(tokens if read is None else select(tokens, read), mixed)

    def after_attention(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block: its input [B, R, D] and the attention's output -> [B, R, D].

        A subclass that joins them otherwise, by gates for example, overrides this method.
        """
        tokens = tokens + self.dropout(mixed)
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))

    def weights(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The block's attention weights, [B, H, L, L], of tokens [B, L, D]."""
        return self.attention.weights(self.attention_norm(tokens), mask)
