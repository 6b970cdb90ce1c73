"""Policies, one file a paper.

To add one: a file here with a frozen config that inherits `PolicyConfig`, registers itself and
builds the policy, and its import below. The contract tests pick it up from the registry.

What a step counts in each loss is said by `weights`, before the network; `forward` returns the
losses of the same names, unreduced. So a batch can be cut among ranks and micro-batches. The sum of
the losses must reach every trained parameter, no two of which may be one tensor, and a buffer may
change in `after_step` alone: replicas are compared to the bit when a run ends.
"""

from decision_seq.policies.base import Policy, PolicyConfig
from decision_seq.policies.bc import BehaviourCloning, BehaviourCloningConfig
from decision_seq.policies.bdt import BidirectionalTransformer, BidirectionalTransformerConfig
from decision_seq.policies.dt import DecisionTransformer, DecisionTransformerConfig
from decision_seq.policies.return_predictor import ReturnPredictor, ReturnPredictorConfig
from decision_seq.policies.tt import TrajectoryTransformer, TrajectoryTransformerConfig

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
