"""LSTM (Hochreiter and Schmidhuber, 1997): a recurrent backbone with episode memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.models.backbones.base import Backbone, BackboneConfig, Seen, State
from decision_seq.models.layers import Dropout, Read, select


@BackboneConfig.register_subclass("lstm")
@dataclass(frozen=True)
class LSTMConfig(BackboneConfig):
    """A stack of LSTM layers, with the width of the Decision Transformer's Gym model."""

    layers: int = 1
    """Number of LSTM layers; each reads the hidden states of the previous one."""
    width: int = 128
    """Width of the tokens and of the hidden and cell states."""
    dropout: float = 0.0
    """Dropout on the tokens and between layers."""

    def __post_init__(self) -> None:
        where = "config: policy.backbone."
        for key, most in (("layers", 1_000), ("width", 65_536)):
            value = getattr(self, key)
            require(1 <= value <= most, f"{where}{key} {value} must be 1 to {most:,}")
        require(0 <= self.dropout < 1, f"{where}dropout {self.dropout} must be in [0, 1)")

    def build(self, seen: Seen | None = None) -> LSTM:
        require(
            seen is None,
            "config: policy.backbone.name lstm reads every token and can hide none from later ones;"
            " this policy needs a backbone that can, such as gpt",
        )
        return LSTM(self)


class LSTM(Backbone):
    """PyTorch's LSTM over tokens, then LayerNorm. State: `hidden` and `cell`, [B, layers, D]."""

    memory = "episode"

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.width, self.layers = config.width, config.layers
        self.dropout = Dropout(config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        self.cells = nn.LSTM(
            config.width, config.width, config.layers, batch_first=True, dropout=between
        )
        self.norm = nn.LayerNorm(config.width)

    def initial_state(self, rows: int) -> State:
        zeros = self.norm.weight.new_zeros(rows, self.layers, self.width)
        return {"hidden": zeros, "cell": zeros}

    def forward(
        self, tokens: Tensor, read: Read | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        if state is None:
            state = self.initial_state(len(tokens))
        before = tuple(  # [layers, B, D] each
            state[name].transpose(0, 1).contiguous() for name in ("hidden", "cell")
        )
        with torch.autocast(tokens.device.type, enabled=False):  # states accumulate
            inputs = self.dropout(tokens).to(self.norm.weight.dtype)
            hidden, (last, cell) = self.cells(inputs, before)
        state = {"hidden": last.transpose(0, 1), "cell": cell.transpose(0, 1)}
        hidden = self.norm(hidden)
        return hidden if read is None else select(hidden, read), state
