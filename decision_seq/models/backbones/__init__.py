"""Backbones turn embedded tokens [B, L, D] into hidden states, causally.

To add one: a file here with a frozen config that inherits `BackboneConfig`, registers itself and
builds the module, and its import below. The contract tests pick it up from the registry.
"""

from decision_seq.models.backbones.base import Backbone, BackboneConfig
from decision_seq.models.backbones.gpt import GPT, GPTConfig

__all__ = ["GPT", "Backbone", "BackboneConfig", "GPTConfig"]
