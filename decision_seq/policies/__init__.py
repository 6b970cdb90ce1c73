"""Policies, one file per paper.

To add one: write a file here with a frozen config that inherits `PolicyConfig`, registers itself
and builds the policy, and import it below. The contract tests find it in the registry.

`weights` returns the weight of each step in each loss, before the network runs. `forward` returns
losses of the same names, unreduced. A batch can therefore be split over ranks and micro-batches.
Every trained parameter must receive a gradient from the sum of the losses, and no two parameters
may share a tensor. Buffers may change in `after_step` only: replicas are compared to the bit when a
run ends.
"""

from decision_seq.policies.base import Policy, PolicyConfig
from decision_seq.policies.bc import BehaviourCloning, BehaviourCloningConfig
from decision_seq.policies.bdt import BidirectionalTransformer, BidirectionalTransformerConfig
from decision_seq.policies.dt import DecisionTransformer, DecisionTransformerConfig
from decision_seq.policies.return_predictor import ReturnPredictor, ReturnPredictorConfig
from decision_seq.policies.trajectory_transformer import (
    TrajectoryTransformer,
    TrajectoryTransformerConfig,
)

__all__ = [
    "BehaviourCloning",
    "BehaviourCloningConfig",
    "BidirectionalTransformer",
    "BidirectionalTransformerConfig",
    "DecisionTransformer",
    "DecisionTransformerConfig",
    "Policy",
    "PolicyConfig",
    "ReturnPredictor",
    "ReturnPredictorConfig",
    "TrajectoryTransformer",
    "TrajectoryTransformerConfig",
]
