"""The Trajectory Transformer (Janner et al., 2021).

policy.py        the model of tokens, its losses and its tokens
planner.py       batched beam search in a model of tokens; knows no policy
imagination.py   the policy as the planner reads it
"""

from decision_seq.policies.trajectory_transformer.policy import (
    TrajectoryTransformer,
    TrajectoryTransformerConfig,
)

__all__ = ["TrajectoryTransformer", "TrajectoryTransformerConfig"]
