"""Backbones: causal modules from embedded tokens [B, L, D] to hidden states.

To add one: write a file here with a frozen config that inherits `BackboneConfig`, registers itself
and builds the module, and import it below. The contract tests find it in the registry.
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
