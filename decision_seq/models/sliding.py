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

from decision_seq.models.layers import Block
from decision_seq.models.products import NOTHING, Product

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
        self.rows, self.count = rows, steps * tokens
        # A row's phase is its newest step's number, until that is 2K: then it is K again, where all
        # is as it was. What follows from a phase is looked up.
        phases = torch.arange(2 * steps, device=device)[:, None]
        newest, places = phases % steps * tokens, torch.arange(self.count, device=device)
        arriving = places[:tokens] - 1  # where tokens come, seen from their step's first
        self._arriving = torch.arange(-1, max(steps, 2), device=device)[:, None] * tokens + arriving
        self._arriving.clamp_(min=0)
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

    def arriving(self, lengths: Tensor) -> Tensor:
        """[B, M], which of a context's tokens come with its newest step; lengths: [B], of contexts
        as a rollout shows them. (Before a first step none comes: any.)"""
        return self._arriving.index_select(0, lengths)

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
    """Carries B windows of K steps, M tokens each, through blocks and a last norm.

    The weights are taken as they are now. dtype: of the products; all between is float32.
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
        device, width = norm.weight.device, norm.weight.shape[0]
        self.window = Window(rows, steps, tokens, device)
        all_of_them = rows * self.window.count
        self.first = _OneHead(blocks[0], rows * tokens, dtype)
        self.blocks = [_OneHead(block, all_of_them, dtype) for block in blocks[:-1]]
        self.last = _OneHead(blocks[-1], rows, dtype)
        self.norm = _Norm(norm)
        # Of every token: itself, it behind the first norm, and what it asks and gives there.
        self._tokens = torch.zeros(all_of_them, width, device=device)
        self._normed = torch.zeros_like(self._tokens, dtype=dtype)
        self._asked = self._normed.new_zeros(all_of_them, 2 * width)

    def __call__(self, tokens: Tensor, begins: Tensor) -> Tensor:
        """The next step of every row -> hidden [B, D] of the newest token.

        tokens: [B, M, D], the last of the step before (of which a beginning takes no notice) and
        the new step's others; begins: [B] True for the first step of an episode.
        """
        window = self.window
        window.advance(begins)
        arrivals, newest, mask = window.arrivals(), window.newest(), window.mask()
        tokens = tokens.flatten(0, 1)
        normed = self.first.normed(tokens)
        self._tokens.index_copy_(0, arrivals, tokens)
        self._normed.index_copy_(0, arrivals, normed)
        self._asked.index_copy_(0, arrivals, self.first.ask(normed))
        tokens, normed, asked = self._tokens, self._normed, self._asked
        for index, block in enumerate(self.blocks):
            if index:
                normed = block.normed(tokens)
                asked = block.ask(normed)
            tokens = block.behind(block.mix(tokens, normed, asked, mask))
        if self.blocks:
            normed = self.last.normed(tokens)
        mask = mask.flatten(0, 1).index_select(0, newest)[:, None]
        tokens = self.last.look(tokens.index_select(0, newest), normed, newest, mask)
        return self.norm(self.last.behind(tokens))


class _OneHead:
    """A block's weights, for so many rows of tokens [N, D] at once."""

    def __init__(self, block: Block, rows: int, dtype: torch.dtype) -> None:
        attention, self.dtype = block.attention, dtype
        weight, bias = (part.double() for part in _values(attention.query_key_value))
        out, out_bias = (part.double() for part in _values(attention.output))
        (query, key, value), (query_bias, _, value_bias) = weight.chunk(3), bias.chunk(3)
        scaled = key.T * len(key) ** -0.5
        asks, gives = scaled @ query, out @ value
        biases = scaled @ query_bias, out @ value_bias + out_bias

        def product(weight: Tensor, bias: Tensor, activation: nn.Module = NOTHING) -> Product:
            return Product(weight.to(dtype), bias.to(dtype), rows, activation)

        self.ask = product(torch.cat([asks, gives]), torch.cat(biases))
        self.query, self.value = product(asks, biases[0]), product(gives, biases[1])
        there, activation, back = block.mlp
        self.there = product(*_values(there), activation)
        self.back = product(*_values(back))
        self.attention_norm, self.mlp_norm = _Norm(block.attention_norm), _Norm(block.mlp_norm)

    def normed(self, tokens: Tensor) -> Tensor:
        return self.attention_norm(tokens).to(self.dtype)

    def mix(self, tokens: Tensor, normed: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        """The tokens [B * L, D] and what each has seen of all; asked: as `ask` makes it of the
        normed ones."""
        rows, length = mask.shape[:2]
        query, value = asked.view(rows, length, -1).chunk(2, -1)
        weights = self._weights(query, normed.view(rows, length, -1), mask)
        return tokens + (weights @ value).flatten(0, 1)

    def look(self, tokens: Tensor, normed: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """The same for one token of each window alone, [B, D], at places in the normed ones."""
        asked = self.query(normed.index_select(0, places))[:, None]  # [B, 1, D]
        normed = normed.view(len(mask), mask.shape[2], -1)
        seen = self._weights(asked, normed, mask) @ normed
        return tokens + self.value(seen[:, 0])

    def _weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """[B, R, D], [B, L, D], [B, R, L] -> how much each looks at each, [B, R, L]."""
        if self.dtype == torch.float32:
            return torch.baddbmm(mask, query, keys.mT).softmax(-1)
        return (mask + query @ keys.mT).softmax(-1).to(self.dtype)

    def behind(self, tokens: Tensor) -> Tensor:
        """What follows the attention."""
        return tokens.add_(self.back(self.there(self.mlp_norm(tokens).to(self.dtype))))


class _Norm:
    """A LayerNorm as it is now."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.eps = list(norm.normalized_shape), norm.eps
        self.weight, self.bias = _values(norm)

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.layer_norm(tokens, self.shape, self.weight, self.bias, self.eps)


def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias as they are now."""
    weight, bias = (part.detach().clone() for part in layer.parameters())
    return weight, bias
