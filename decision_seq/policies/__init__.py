"""Policies, one file a paper.

To add one: a file here with a frozen config that inherits `PolicyConfig`, registers itself and
builds the policy, and its import below. The contract tests pick it up from the registry.
"""

from decision_seq.policies.base import Policy, PolicyConfig
from decision_seq.policies.dt import DecisionTransformer, DecisionTransformerConfig

__all__ = ["DecisionTransformer", "DecisionTransformerConfig", "Policy", "PolicyConfig"]
