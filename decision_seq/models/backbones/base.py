"""The contract of a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import draccus
import torch
from torch import Tensor, nn

from decision_seq.models.fast.kv_cache import Cache
from decision_seq.models.layers import Read

# A rule fixed when a backbone is built: True at the positions that others may look at. What stands
# elsewhere is seen by nobody, not even by itself; the hidden state there follows from the rest.
Seen = tuple[bool, ...]


# The next step of every row: tokens [B, M, D], the first of which is the former step's last, the
# others the new step's; and [B] True where an episode begins with it, which takes no notice of that
# first one -> hidden [B, D] at the last of them, as `forward` over the whole windows has it.
Carried = Callable[[Tensor, Tensor], Tensor]


class Backbone(nn.Module):
    """Causal: the hidden state at a position depends on the tokens up to it and on no other.

    To be planned with, it also reads a sequence piece by piece, with the same numbers.
    """

    width: int

    def forward(self, tokens: Tensor, read: Read | None = None) -> Tensor:
        """tokens [B, L, D] -> hidden [B, R, D] at the positions `read`, by default all."""
        raise NotImplementedError

    def attention(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> how much each looks at each, [layers, B, heads, L, L], rows of sum 1.

        Of `forward`, for people to look at: it costs memory that no training needs.
        """
        raise NotImplementedError

    def slide(
        self,
        tables: int,
        rows: int,
        steps: int,
        tokens: int,
        dtype: torch.dtype = torch.float32,
    ) -> Sequence[Carried] | None:
        """What carries tables of so many windows, of so many steps and tokens a step, along
        episodes, with the weights of now and products in `dtype`; None where `forward` has to do.
        """
        return None

    def begin(self, rows: int, shared: bool = True) -> Cache:
        """Nothing read yet, by so many rows. shared: see `Cache`."""
        raise NotImplementedError

    def extend(self, tokens: Tensor, cache: Cache, lengths: Tensor | None = None) -> Tensor:
        """Read on: tokens [R, q, D], behind those that the cache holds -> hidden [R, q, D].

        lengths: [R], of an empty cache's first tokens so many are real; the rest is never looked
        at. Such rows have to fork before they read on.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class BackboneConfig(draccus.ChoiceRegistry):
    """A backbone's hyper-parameters and the only place of their defaults."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "gpt"

    def build(self, seen: Seen | None = None) -> Backbone:
        """seen: which positions of a sequence may be looked at; by default all."""
        raise NotImplementedError
