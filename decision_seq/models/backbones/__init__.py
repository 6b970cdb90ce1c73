"""Backbones: embedded tokens [B, L, D] in, hidden states out, causally.

To add one: a file here with a frozen config that inherits `BackboneConfig`, registers itself and
builds the module, and its import below. The contract tests pick it up from the registry.
"""

from decision_seq.models.backbones.base import Backbone, BackboneConfig, Searchable, State
from decision_seq.models.backbones.gpt import GPT, GPTConfig
from decision_seq.models.backbones.lstm import LSTM, LSTMConfig

__all__ = [
    "GPT",
    "LSTM",
    "Backbone",
    "BackboneConfig",
    "GPTConfig",
    "LSTMConfig",
    "Searchable",
    "State",
]
