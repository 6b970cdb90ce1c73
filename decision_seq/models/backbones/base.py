"""Base classes of backbones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import draccus
import torch
from torch import Tensor, nn

from decision_seq.models.fast.kv_cache import Cache
from decision_seq.models.layers import Read

# A rule that is fixed when a backbone is built: True at positions that may be attended to. Other
# positions are masked for every query, including their own.
Seen = tuple[bool, ...]

# State that a backbone carries from one call to the next, by name: [B, ...], a row per sequence.
State = dict[str, Tensor]


class Backbone(nn.Module):
    """Base class of causal sequence models: a hidden state depends only on tokens up to its own.

    memory: with `window`, hidden states depend on the tokens of one call; with `episode`, also on
        the state that is carried from call to call. The hidden states of an episode are then the
        same if it is read step by step, segment by segment or in one call.
    shows_attention: whether it has `attention`.
    hides: whether it can be built with a rule (`Seen`) of the positions that may be attended to.
    """

    memory: ClassVar[Literal["window", "episode"]] = "window"
    shows_attention: ClassVar[bool] = False
    hides: ClassVar[bool] = False
    width: int

    def initial_state(self, rows: int) -> State | None:
        """The state before an episode's first token; None where no state is carried."""
        return None

    def forward(
        self, tokens: Tensor, read: Read | None = None, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """tokens [B, L, D] -> hidden [B, R, D] at the positions `read`, by default all, and the
        state after the last token. state: None for the initial one.
        """
        raise NotImplementedError

    def attention(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> attention weights of `forward`, [layers, B, heads, L, L]; each row
        sums to 1. For inspection: it takes memory that training does not need.
        """
        raise NotImplementedError


@runtime_checkable
class Searchable(Protocol):
    """Protocol of backbones that read sequences piece by piece in rows that branch (beam search).

    The hidden states are those of `Backbone.forward` over all tokens that a row has read.
    """

    width: int

    def begin(self, rows: int, shared: bool = True) -> Cache:
        """The cache of so many rows that have read nothing. shared: see `Cache`."""

    def extend(self, tokens: Tensor, cache: Cache, lengths: Tensor | None = None) -> Tensor:
        """Read tokens [R, q, D] after those in the cache -> hidden [R, q, D].

        lengths: [R], for the first tokens of an empty cache: the number of real tokens in each row.
        The rest are never attended to, and such rows must fork before they read on.
        """


@dataclass(frozen=True)
class BackboneConfig(draccus.ChoiceRegistry):
    """A backbone's hyper-parameters, with their defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "gpt"

    def build(self, seen: Seen | None = None) -> Backbone:
        """The backbone. seen: the positions that may be attended to; by default all.

        UserError where a rule is given and the backbone cannot hide positions.
        """
        raise NotImplementedError


def reset_rows(state: State, begins: Tensor, initial: State | None) -> State:
    """The state, reset to the initial one in rows that begin an episode. begins: [B]."""
    if initial is None:
        return state
    return {
        name: torch.where(begins.view(-1, *[1] * (value.ndim - 1)), initial[name], value)
        for name, value in state.items()
    }


def unroll(
    backbone: Backbone,
    tokens: Tensor,
    state: State | None,
    begins: Tensor,
    burn_in: int = 0,
    carried_at: int | None = None,
) -> tuple[Tensor, State | None]:
    """Hidden states [B, L, D] of a window's tokens, and the initial state of the next window.

    begins: [B], whether the row's window begins an episode, from the initial state. burn_in: the
    number of tokens that only refresh the state; no gradient flows through them, except in rows
    that begin an episode (Kapturowski et al., 2019, section 3). carried_at: the number of tokens
    after which the next window begins; None for all of them.
    """
    length = tokens.shape[1]
    carried_at = length if carried_at is None else carried_at
    initial = backbone.initial_state(len(tokens))
    if state is not None:
        state = reset_rows(state, begins, initial)
    pieces, carried = [], state
    cuts = sorted({0, min(burn_in, length), min(carried_at, length), length})
    for start, end in itertools.pairwise(cuts):
        hidden, state = backbone(tokens[:, start:end], None, state)
        pieces.append(hidden)
        if end == carried_at:
            carried = state
        if end == burn_in and state is not None:
            detached = {name: value.detach() for name, value in state.items()}
            state = reset_rows(detached, begins, state)  # rows that begin retain their gradient
    return torch.cat(pieces, 1), carried
