"""What a policy is conditioned on: the hindsight label, the prompt, and how it advances.

To add one: a file here with a class and its `register_subclass` line, and its import below.
"""

from decision_seq.sequences.conditioning import features, histogram, outcome  # noqa: F401 (register)
from decision_seq.sequences.conditioning.base import Conditioning, Unconditioned
from decision_seq.sequences.conditioning.labels import label
from decision_seq.sequences.conditioning.returns import (
    ReturnToGo,
    ShuffledReturnToGo,
    returns_to_go,
)

__all__ = [
    "Conditioning",
    "ReturnToGo",
    "ShuffledReturnToGo",
    "Unconditioned",
    "label",
    "returns_to_go",
]
