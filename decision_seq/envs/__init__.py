"""Environments: their tasks and reference scores, and N copies of one stepped together."""

from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.facts import (
    FACTS,
    EnvironmentFacts,
    canonical,
    environment_notes,
    facts_by_environment,
    facts_by_name,
    normalize,
    normalized_score,
    score_name,
)
from decision_seq.envs.making import action_space, close, make, missing_extra, obstacle, spaces
from decision_seq.envs.named import trust
from decision_seq.envs.running import Environments

__all__ = [
    "FACTS",
    "ActionSpace",
    "EnvironmentFacts",
    "Environments",
    "action_space",
    "canonical",
    "close",
    "environment_notes",
    "facts_by_environment",
    "facts_by_name",
    "make",
    "missing_extra",
    "normalize",
    "normalized_score",
    "obstacle",
    "score_name",
    "spaces",
    "trust",
]
