"""Rollouts by a transformer of one head: the newest token's hidden state at every step.

Plain form: `GPT.forward` over the whole window, with `read` at the newest token. Values are equal
up to rounding (a rollout needs no gradient). Two things make it faster:

- What depends on one token only (the first block's norm, query and value) is stored from step to
  step.
- With one head, weights fold: keys are the normed tokens themselves, and values include the output
  layer, because

    (Wq x + bq) . (Wk y + bk) = (Wk' Wq x + Wk' bq) . y + a constant that softmax drops,
    Wo sum(w_j (Wv y_j + bv)) + bo = sum(w_j (Wo Wv y_j + Wo bv + bo)), as the w_j add up to 1.

Gain: a step of 8 windows of the paper's model takes 1.43 times as long by the plain form
(2026-11-28, AVX2 EPYC, one thread of a busy machine, wall clock, median of 200 interleaved rounds
of a step of `decision-seq bench evaluate` without its environments; 1.44 by CPU time).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from decision_seq.models.fast.linear import IDENTITY, linear
from decision_seq.models.layers import Block

MAX_TOKENS = 256  # in a window; attention over more needs a kernel that stores no whole map
FAR = 1e9  # added to scores to mask a token; scores are smaller


class TokenRing:
    """A ring buffer for the last K steps of B episodes, M tokens each: step t is at slot t % K.

    Nothing moves as the window slides. Position embeddings carry the time, so the order of the
    slots matters to the attention mask only. A step's last token, its action, arrives with the next
    step.
    """

    def __init__(
        self, rows: int, steps: int, tokens: int, device: torch.device | str = "cpu"
    ) -> None:
        self.count = steps * tokens
        # A row's phase is the number of its newest step below 2 K; step 2 K has phase K, because
        # the ring is then in the same state. All indices are looked up by phase.
        phases = torch.arange(2 * steps, device=device)[:, None]  # [2K, 1]
        newest, places = phases % steps * tokens, torch.arange(self.count, device=device)
        arriving = places[:tokens] - 1  # relative to the new step's first token
        self._following = torch.cat([phases[1:, 0], phases[steps]])  # [2K]
        self._arrivals = (newest + arriving) % self.count  # [2K, M]
        self._newest = newest + tokens - 2  # [2K, 1]
        oldest = torch.where(phases < steps, 0, newest + tokens)  # [2K, 1]
        self._order = (places - oldest) % self.count * FAR  # [2K, L]
        self._phase = torch.full((rows,), 2 * steps - 1, device=device)
        self._first = self.count * torch.arange(rows, device=device)[:, None]  # [B, 1]

    def advance(self, begins: Tensor) -> None:
        """Go to the next step of every row; begins: [B], True = the first step of an episode."""
        self._phase = self._following.index_select(0, self._phase).masked_fill_(begins, 0)

    def arrivals(self) -> Tensor:
        """Indices [B * M] into [B * L] for the previous step's action and the new step's tokens."""
        return self._arrivals.index_select(0, self._phase).add_(self._first).flatten()

    def newest(self) -> Tensor:
        """Indices [B] into [B * L] of each row's newest token."""
        return self._newest.index_select(0, self._phase).add_(self._first).flatten()

    def mask(self) -> Tensor:
        """The causal mask that is added to scores, [B, L, L]: 0 = may attend, else at most -FAR.

        Slots that are still empty count as later than all tokens.
        """
        order = self._order.index_select(0, self._phase)  # [B, L]
        return (order[:, :, None] - order[:, None, :]).clamp_(max=0)


class FoldedTransformer:
    """A copy of a transformer's current weights, folded, for batches of B windows.

    Windows have K steps of M tokens. dtype: of the matrix products; the rest is float32.
    """

    def __init__(
        self,
        blocks: list[Block],
        norm: nn.LayerNorm,
        rows: int,
        steps: int,
        tokens: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.steps, self.tokens, self.dtype = rows, steps, tokens, dtype
        self.width, self.device = norm.weight.shape[0], norm.weight.device
        *earlier, last = blocks
        self.norms = [_Norm(block.attention_norm) for block in blocks]
        # Query and value together; the last block needs the query of the newest token only.
        self.query_values = [
            _linear(torch.cat(weights), torch.cat(biases), dtype)
            for weights, biases in map(_folded, earlier)
        ]
        self.query, self.value = (
            _linear(weight, bias, dtype) for weight, bias in zip(*_folded(last), strict=True)
        )
        self.mlps = [_ResidualMLP(block, dtype) for block in blocks]
        self.norm = _Norm(norm)

    def normed(self, block: int, tokens: Tensor) -> Tensor:
        """The normed input of a block's attention: [N, D] -> [N, D] of the products' type."""
        return self.norms[block](tokens).to(self.dtype)

    def per_token(self, tokens: Tensor) -> list[Tensor]:
        """What depends on one token only: [N, D] -> tokens, normed [N, D], query-values [N, 2 D].

        A transformer of one block has no query-values.
        """
        normed = self.normed(0, tokens)
        return [tokens, normed, *(project(normed) for project in self.query_values[:1])]

    def newest_hidden(self, stored: list[Tensor], mask: Tensor, newest: Tensor) -> Tensor:
        """Hidden states [B, D] of the newest tokens.

        stored: `per_token` of all tokens, [B * L, ...] in the order of the ring; mask: [B, L, L],
        added to scores; newest: indices [B] into [B * L].
        """
        tokens, normed, *query_value = stored
        for block, project in enumerate(self.query_values):
            if block:
                normed = self.normed(block, tokens)
                query_value = [project(normed)]
            tokens = self.mlps[block](self._attended(tokens, normed, query_value[0], mask))
        if self.query_values:
            normed = self.normed(-1, tokens)  # [B * L, D]
        mask = mask.flatten(0, 1).index_select(0, newest)[:, None]  # [B, 1, L]
        query = self.query(normed.index_select(0, newest))[:, None]  # [B, 1, D]
        normed = normed.view(self.rows, -1, self.width)  # [B, L, D]
        mixed = (self._weights(query, normed, mask) @ normed)[:, 0]  # [B, D]
        return self.norm(self.mlps[-1](tokens.index_select(0, newest) + self.value(mixed)))

    def _attended(
        self, tokens: Tensor, normed: Tensor, query_value: Tensor, mask: Tensor
    ) -> Tensor:
        """The tokens [B * L, D] plus the attention's output."""
        query, value = query_value.view(self.rows, -1, 2 * self.width).chunk(2, -1)  # [B, L, D]
        weights = self._weights(query, normed.view(self.rows, -1, self.width), mask)  # [B, L, L]
        return tokens + (weights @ value).flatten(0, 1)

    def _weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attention weights [B, R, L] of queries [B, R, D], keys [B, L, D] and a mask [B, R, L]."""
        if self.dtype == torch.float32:
            return torch.baddbmm(mask, query, keys.mT).softmax(-1)
        return (mask + query @ keys.mT).softmax(-1).to(self.dtype)


class SlidingDecoder:
    """The state of one batch of B windows, which every step changes."""

    def __init__(self, transformer: FoldedTransformer) -> None:
        rows, device = transformer.rows, transformer.device
        self.transformer = transformer
        self.ring = TokenRing(rows, transformer.steps, transformer.tokens, device)
        empty = torch.zeros(rows * self.ring.count, transformer.width, device=device)
        self._stored = transformer.per_token(empty)  # [B * L, ...] each

    def __call__(self, tokens: Tensor, begins: Tensor) -> Tensor:
        """One step of every row -> hidden [B, D] of its newest token.

        tokens: [B, M, D], the previous step's action, then this step's other tokens; begins: [B],
        True = the first step of an episode, which ignores the previous action.
        """
        ring = self.ring
        ring.advance(begins)
        if begins.any():
            # An earlier episode may have left NaN, which a mask does not hide.
            for stored in self._stored:
                stored.view(len(begins), ring.count, -1).masked_fill_(begins[:, None, None], 0)
        arrivals = ring.arrivals()
        arrived = self.transformer.per_token(tokens.detach().flatten(0, 1))
        for stored, new in zip(self._stored, arrived, strict=True):
            stored.index_copy_(0, arrivals, new)
        return self.transformer.newest_hidden(self._stored, ring.mask(), ring.newest())


class _ResidualMLP:
    """A block after its attention, without dropout."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        self.norm, self.dtype = _Norm(block.mlp_norm), dtype
        expand, activation, contract = block.mlp
        self.expand = _linear(*_values(expand), dtype, activation)
        self.contract = _linear(*_values(contract), dtype)

    def __call__(self, tokens: Tensor) -> Tensor:
        """[N, D] -> [N, D], in place."""
        return tokens.add_(self.contract(self.expand(self.norm(tokens).to(self.dtype))))


class _Norm:
    """A copy of a LayerNorm's current weights."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.eps = list(norm.normalized_shape), norm.eps
        self.weight, self.bias = _values(norm)

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.layer_norm(tokens, self.shape, self.weight, self.bias, self.eps)


class _Linear(NamedTuple):
    """A linear layer and the activation after it, without gradient."""

    weight: Tensor  # [O, I]
    bias: Tensor  # [O]
    activation: nn.Module

    def __call__(self, inputs: Tensor) -> Tensor:
        return linear(inputs, *self)


def _folded(block: Block) -> tuple[list[Tensor], list[Tensor]]:
    """Weights [D, D] and biases [D] of a block's folded query and value, in float64."""
    attention = block.attention
    weight, bias = (part.double() for part in _values(attention.query_key_value))
    out, out_bias = (part.double() for part in _values(attention.output))
    (query, key, value), (query_bias, _, value_bias) = weight.chunk(3), bias.chunk(3)
    scaled = key.T * len(key) ** -0.5
    return [scaled @ query, out @ value], [scaled @ query_bias, out @ value_bias + out_bias]


def _linear(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, activation: nn.Module = IDENTITY
) -> _Linear:
    return _Linear(weight.to(dtype), bias.to(dtype), activation)


def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Copies of a layer's current weight and bias."""
    weight, bias = (part.detach().clone() for part in layer.parameters())
    return weight, bias
