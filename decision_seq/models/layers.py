"""Transformer layers, written so that nothing is computed that nobody reads."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.models.fast.kv_cache import Cache
from decision_seq.models.fast.linear import Linear, linear

# Which positions of a sequence are wanted: a slice or [R] for all rows alike, [B, R] row by row.
Read = slice | Tensor

# Keys up to which a CPU attends by plain products: it multiplies in bf16, where torch's kernel of
# attention keeps the pace of fp32, and is a little quicker over few keys anyway.
PLAINLY = {torch.bfloat16: 256, torch.float32: 100}


def select(tokens: Tensor, read: Read) -> Tensor:
    """tokens [B, L, D] -> [B, R, D]."""
    if row_by_row(read):
        return tokens.gather(1, read[:, :, None].expand(-1, -1, tokens.shape[2]))
    return tokens[:, read]


def row_by_row(read: Read) -> TypeGuard[Tensor]:
    return isinstance(read, Tensor) and read.ndim == 2


def causal_mask(
    length: int, read: Read, device: torch.device, seen: Tensor | None = None
) -> Tensor:
    """True where the query at a read position may look: [R, L], or [B, 1, R, L] row by row.

    seen: [L] True at the positions that may be looked at from anywhere; None for all of them.
    """
    positions = torch.arange(length, device=device)
    if row_by_row(read):
        mask = (positions <= read[:, :, None])[:, None]
    else:
        mask = positions <= positions[read][:, None]
    return mask if seen is None else mask & seen


def mask_at(read: Read, mask: Tensor) -> Tensor:
    """The rows read of a mask [L, L]: [R, L], or [B, 1, R, L] row by row."""
    return mask[read][:, None] if row_by_row(read) else mask[read]


class Dropout(nn.Module):
    """Dropout whose masks cost little on a CPU.

    torch's CPU masks come from one serial Mersenne twister and take a fifth of an update of the
    paper's model. Here torch's generator supplies a seed (so `torch.manual_seed` still decides
    everything) and numpy's SFC64 draws 16 bits an element, hence a probability to 1 in 65536.
    Elsewhere, and under torch.compile, torch's own dropout.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return inputs
        if inputs.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(inputs, self.probability)
        seed = int(torch.randint(2**62, ()))
        return _CpuDropout.apply(inputs, self.probability, seed)

    def extra_repr(self) -> str:
        return f"{self.probability}"


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, probability: float, seed: int) -> Tensor:
        count = inputs.numel()
        words = np.random.SFC64(seed).random_raw((count + 3) // 4)
        bits = torch.from_numpy(words.view(np.int16)[:count])
        threshold = min(round(probability * 65536), 65535)
        # 0 and 1 as numbers: a product with booleans is no vector instruction.
        keep = inputs.new_empty(count)
        keep = torch.ge(bits, threshold - 32768, out=keep).view(inputs.shape)
        ctx.save_for_backward(keep)
        ctx.scale = 65536 / (65536 - threshold)
        return (inputs * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.scale), None, None


class CausalSelfAttention(nn.Module):
    """Multi-head attention with fused query, key and value projections."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.dropout = Dropout(dropout)  # of the weights
        self.query_key_value = Linear(width, 3 * width)
        self.output = Linear(width, width)

    def forward(
        self, tokens: Tensor, read: Read | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """tokens [B, L, D] -> [B, L, D], or [B, R, D] at the positions read. mask: see `Block`."""
        if read is None:
            query, key, value = self.query_key_value(tokens).chunk(3, -1)
            return self._mixed(query, key, value, mask)
        if mask is None:
            mask = causal_mask(tokens.shape[1], read, tokens.device)
        else:
            mask = mask_at(read, mask)
        if row_by_row(read) and not self.training:
            return self._carried(tokens, read, mask)
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = linear(select(tokens, read), weight[: self.width], bias[: self.width])
        key, value = linear(tokens, weight[self.width :], bias[self.width :]).chunk(2, -1)
        return self._mixed(query, key, value, mask)

    def weights(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens [B, L, D] -> what `forward` mixes values by, [B, heads, L, L]."""
        query, key, _ = self.query_key_value(tokens).chunk(3, -1)
        if mask is None:
            mask = causal_mask(tokens.shape[1], slice(None), tokens.device)
        return self._weights(self._split(query), self._split(key), mask)

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """[B, R, D] of keys and values at L positions -> [B, R, D]; mask: None for causal."""
        query, key, value = self._split(query), self._split(key), self._split(value)
        dropped = self.training and self.dropout.probability > 0  # plainly too: see Dropout
        few = not torch.is_grad_enabled() and key.shape[2] <= PLAINLY.get(key.dtype, 0)
        if query.device.type == "cpu" and (dropped or few):
            if mask is None:
                mask = causal_mask(key.shape[2], slice(None), key.device)
            mixed = self.dropout(self._weights(query, key, mask)) @ value
        else:
            mixed = F.scaled_dot_product_attention(
                query,
                key,
                value,
                mask,
                self.dropout.probability if dropped else 0.0,
                is_causal=mask is None,
            )
        return self.output(mixed.transpose(1, 2).flatten(2))

    @staticmethod
    def _weights(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """[B, heads, R, D / heads], [B, heads, L, D / heads] -> [B, heads, R, L]."""
        return _looked(query @ key.mT, mask, query.shape[-1])

    def extend(
        self, tokens: Tensor, cache: Cache, block: int, kept: list[int], visible: Tensor | None
    ) -> Tensor:
        """New tokens [R, q, D] -> [R, q, D]; kept: the places of those that may be looked at."""
        projected = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = projected.permute(2, 3, 0, 1, 4)  # [heads, R, q, D / heads] each
        if len(kept) < tokens.shape[1]:
            key, value = key[:, :, kept], value[:, :, kept]
        mixed = cache.attend(block, query, key, value, visible)
        return self.output(mixed.permute(1, 2, 0, 3).flatten(2))

    def _carried(self, tokens: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """The same for few queries [B, R], without a key or a value for any token.

        q . (Wk x + bk) = (Wk' q) . x + a constant that softmax drops, and a mean of values is the
        value of a mean: so the query is carried to the tokens and the mean of tokens to its value.
        """
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        tokens = tokens.to(weight.dtype)  # lowered once
        query, key, value = weight.unflatten(0, (3, self.heads, -1))  # [heads, D / heads, D] each
        asked = linear(select(tokens, read), query.flatten(0, 1), bias[: self.width])
        asked = self._by_head(asked) @ key  # [heads, B * R, D]
        asked = asked.unflatten(1, read.shape).transpose(0, 1)  # [B, heads, R, D]
        scores = (asked.flatten(1, 2) @ tokens.mT).unflatten(1, (self.heads, -1))
        weights = _looked(scores, mask, self.width // self.heads)  # [B, heads, R, L]
        mixed = (weights.flatten(1, 2) @ tokens).unflatten(1, (self.heads, -1))
        values = mixed.transpose(0, 1).flatten(1, 2) @ value.mT  # [heads, B * R, D / heads]
        values = values.transpose(0, 1).flatten(1).unflatten(0, read.shape)  # [B, R, D]
        return self.output(values + bias[2 * self.width :])

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[B, R, D] -> [heads, B * R, D / heads]: each head's weights multiply once."""
        return tokens.unflatten(2, (self.heads, -1)).flatten(0, 1).transpose(0, 1)

    def _split(self, tokens: Tensor) -> Tensor:
        """[B, L, D] -> [B, heads, L, D / heads]."""
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def _looked(scores: Tensor, mask: Tensor, size: int) -> Tensor:
    """Products of queries and keys of `size` numbers -> how much each looks at each."""
    hidden = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    return torch.add(hidden, scores, alpha=size**-0.5).softmax(-1)


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Sequential):
    """A linear layer to four times the width, an activation, a linear layer back."""

    def __init__(self, width: int, activation: str) -> None:
        there, back = Linear(width, 4 * width), Linear(4 * width, width)
        super().__init__(there, ACTIVATIONS[activation](), back)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [..., D] -> [..., D]."""
        there, activation, back = self
        return back(linear(tokens, there.weight, there.bias, activation))  # type: ignore[arg-type]


class Block(nn.Module):
    """Pre-norm transformer block. With `read`, everything after keys and values is for it alone.

    mask: who may look at whom, [L, L], True where he may; None: each at those before him.
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
        return self._behind(tokens if read is None else select(tokens, read), mixed)

    def weights(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each token looks at each, [B, heads, L, L]."""
        return self.attention.weights(self.attention_norm(tokens), mask)

    def extend(
        self, tokens: Tensor, cache: Cache, block: int, kept: list[int], visible: Tensor | None
    ) -> Tensor:
        """New tokens [R, q, D] -> [R, q, D], behind those that the cache holds."""
        normed = self.attention_norm(tokens)
        return self._behind(tokens, self.attention.extend(normed, cache, block, kept, visible))

    def _behind(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """What follows the attention, whose outcome is `mixed`."""
        tokens = tokens + self.dropout(mixed)
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))
