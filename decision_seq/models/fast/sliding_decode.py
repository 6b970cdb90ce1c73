"""A transformer of one head over windows that slide: the newest token's hidden state at every step.

The numbers are those of `GPT.forward` over the whole windows, with less work. What becomes of a
token by itself, before it looks at others, is kept from step to step. And one head needs no keys,
and no output layer: keys are the tokens themselves, values what the output makes of them, for

    (Wq x + bq) . (Wk y + bk) = (Wk' Wq x + Wk' bq) . y + a constant that softmax drops,
    Wo sum(w_j (Wv y_j + bv)) + bo = sum(w_j (Wo Wv y_j + Wo bv + bo)), as the w_j add up to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decision_seq.models.fast.linear import NOTHING, Product
from decision_seq.models.layers import Block

LONGEST = 256  # tokens; attention over more would want a kernel that holds no whole map
FAR = 1e9  # scores do not reach as far


class Window:
    """The last K steps of B live episodes, M tokens each: step t at the slot t % K.

    So nothing moves as the window slides. Tokens that know their time by themselves do not mind
    where they lie, only whom they may look at (`mask`). A step's last token, its action, comes with
    the step behind it.
    """

    def __init__(
        self, rows: int, steps: int, tokens: int, device: torch.device | str = "cpu"
    ) -> None:
        self.count = steps * tokens
        # A row's phase is its newest step's number, until that is 2K: then it is K again, where all
        # is as it was. What follows from a phase is looked up.
        phases = torch.arange(2 * steps, device=device)[:, None]
        newest, places = phases % steps * tokens, torch.arange(self.count, device=device)
        arriving = places[:tokens] - 1  # seen from the new step's first
        self._following = torch.cat([phases[1:, 0], phases[steps]])
        self._arrivals = (newest + arriving) % self.count  # [2K, M]
        self._newest = newest + tokens - 2  # [2K, 1]
        oldest = torch.where(phases < steps, 0, newest + tokens)
        self._order = (places - oldest) % self.count * FAR  # [2K, L]
        self._phase = torch.full((rows,), 2 * steps - 1, device=device)
        self._first = self.count * torch.arange(rows, device=device)[:, None]

    def advance(self, begins: Tensor) -> None:
        """The next step of every row; begins: [B] True for the first of an episode."""
        self._phase = self._following.index_select(0, self._phase).masked_fill_(begins, 0)

    def arrivals(self) -> Tensor:
        """[B * M], where in [B * L] the last token of the step before and the new step's others
        come to lie."""
        return self._arrivals.index_select(0, self._phase).add_(self._first).flatten()

    def newest(self) -> Tensor:
        """[B], where in [B * L] the newest token lies."""
        return self._newest.index_select(0, self._phase).add_(self._first).flatten()

    def mask(self) -> Tensor:
        """What is added to scores, [B, L, L]: 0 for a token itself and those before it, so much
        less for later ones that nothing of them is left.

        Where nothing has come yet, tokens are later than all that have.
        """
        order = self._order.index_select(0, self._phase)
        return (order[:, :, None] - order[:, None, :]).clamp_(max=0)


class SlidingTransformer:
    """Blocks and a last norm, their weights as they are now, for tables of B windows: K steps, M
    tokens each.

    dtype: of the products; all between is float32.
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
        whole = rows * steps * tokens
        self.norms = [_Norm(block.attention_norm) for block in blocks]
        # Of the first block's tokens only the new ones ask; of the last block's only the newest.
        self.asks = [
            _product(
                torch.cat(weights), torch.cat(biases), dtype, whole if index else rows * tokens
            )
            for index, (weights, biases) in enumerate(map(_folded, earlier))
        ]
        self.query, self.value = (
            _product(weight, bias, dtype, rows) for weight, bias in zip(*_folded(last), strict=True)
        )
        self.behind = [_Behind(block, dtype, whole) for block in earlier]
        self.behind.append(_Behind(last, dtype, rows))
        self.norm = _Norm(norm)

    def normed(self, block: int, tokens: Tensor) -> Tensor:
        """[N, D] -> what a block's attention is given of them, [N, D] of the products' type."""
        return self.norms[block](tokens).to(self.dtype)

    def first(self, tokens: Tensor) -> list[Tensor]:
        """[N, D] -> what becomes of tokens by themselves, [N, ...] each."""
        normed = self.normed(0, tokens)
        return [tokens, normed, *(ask(normed) for ask in self.asks[:1])]

    def rest(self, first: list[Tensor], mask: Tensor, newest: Tensor) -> Tensor:
        """What `first` gave of all tokens [B * L], which lie in any order, -> hidden [B, D].

        mask: [B, L, L], added to scores; newest: [B], where in [B * L] the tokens lie that are
        asked for.
        """
        tokens, normed, *asked = first
        for block, ask in enumerate(self.asks):
            if block:
                normed = self.normed(block, tokens)
                asked = [ask(normed)]
            tokens = self.behind[block](self._mixed(tokens, normed, asked[0], mask))
        if self.asks:
            normed = self.normed(-1, tokens)
        mask = mask.flatten(0, 1).index_select(0, newest)[:, None]
        asks = self.query(normed.index_select(0, newest))[:, None]  # [B, 1, D]
        normed = normed.view(self.rows, -1, self.width)
        seen = (self._weights(asks, normed, mask) @ normed)[:, 0]
        return self.norm(self.behind[-1](tokens.index_select(0, newest) + self.value(seen)))

    def _mixed(self, tokens: Tensor, normed: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        """The tokens [B * L, D] and what each has seen of the others."""
        query, value = asked.view(self.rows, -1, 2 * self.width).chunk(2, -1)
        weights = self._weights(query, normed.view(self.rows, -1, self.width), mask)
        return tokens + (weights @ value).flatten(0, 1)

    def _weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """[B, R, D], [B, L, D], [B, R, L] -> how much each looks at each, [B, R, L]."""
        if self.dtype == torch.float32:
            return torch.baddbmm(mask, query, keys.mT).softmax(-1)
        return (mask + query @ keys.mT).softmax(-1).to(self.dtype)


class Slide:
    """A table of windows that a transformer is carried over; changed by every step."""

    def __init__(self, transformer: SlidingTransformer) -> None:
        rows, device = transformer.rows, transformer.device
        self.transformer = transformer
        self.window = Window(rows, transformer.steps, transformer.tokens, device)
        # What becomes of all tokens by themselves, [B * L, ...] each.
        none = torch.zeros(rows * self.window.count, transformer.width, device=device)
        self._first = transformer.first(none)

    def __call__(self, tokens: Tensor, begins: Tensor) -> Tensor:
        """The next step of every row -> hidden [B, D] of the newest token.

        tokens: [B, M, D], the last of the step before (of which a beginning takes no notice) and
        the new step's others; begins: [B] True for the first step of an episode.
        """
        window = self.window
        window.advance(begins)
        if begins.any():
            # What a former episode left may be NaN, which spoils even what it is hidden from.
            for kept in self._first:
                kept.view(len(begins), window.count, -1).masked_fill_(begins[:, None, None], 0)
        arrivals = window.arrivals()
        first = self.transformer.first(tokens.detach().flatten(0, 1))
        for kept, new in zip(self._first, first, strict=True):
            kept.index_copy_(0, arrivals, new)
        return self.transformer.rest(self._first, window.mask(), window.newest())


class _Behind:
    """What follows a block's attention, for so many rows of tokens."""

    def __init__(self, block: Block, dtype: torch.dtype, rows: int) -> None:
        self.norm, self.dtype = _Norm(block.mlp_norm), dtype
        there, activation, back = block.mlp
        self.there = _product(*_values(there), dtype, rows, activation)
        self.back = _product(*_values(back), dtype, rows)

    def __call__(self, tokens: Tensor) -> Tensor:
        """[rows, D] -> [rows, D], in the place of what is given."""
        return tokens.add_(self.back(self.there(self.norm(tokens).to(self.dtype))))


class _Norm:
    """A LayerNorm as it is now."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.eps = list(norm.normalized_shape), norm.eps
        self.weight, self.bias = _values(norm)

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.layer_norm(tokens, self.shape, self.weight, self.bias, self.eps)


def _folded(block: Block) -> tuple[list[Tensor], list[Tensor]]:
    """Weights [D, D] and biases [D], in float64, of what a token asks (against other tokens) and of
    what it gives."""
    attention = block.attention
    weight, bias = (part.double() for part in _values(attention.query_key_value))
    out, out_bias = (part.double() for part in _values(attention.output))
    (query, key, value), (query_bias, _, value_bias) = weight.chunk(3), bias.chunk(3)
    scaled = key.T * len(key) ** -0.5
    return [scaled @ query, out @ value], [scaled @ query_bias, out @ value_bias + out_bias]


def _product(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, rows: int, activation: nn.Module = NOTHING
) -> Product:
    return Product(weight.to(dtype), bias.to(dtype), rows, activation)


def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias as they are now."""
    weight, bias = (part.detach().clone() for part in layer.parameters())
    return weight, bias
