"""Environments: their tasks and reference scores, and N copies of one stepped together."""

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
from decision_seq.envs.running import Environments, make, missing_extra, obstacle, trust

__all__ = [
    "FACTS",
    "EnvironmentFacts",
    "Environments",
    "canonical",
    "environment_notes",
    "facts_by_environment",
    "facts_by_name",
    "make",
    "missing_extra",
    "normalize",
    "normalized_score",
    "obstacle",
    "score_name",
    "trust",
]
