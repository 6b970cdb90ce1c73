"""The scores of a policy: which episodes are rolled out, and what they come to.

Exactly N episodes a target are run to their own end, so that none is favoured for being short.
"""

from decision_seq.evaluation.calibration import calibrate
from decision_seq.evaluation.checkpoints import (
    Opened,
    compute_device,
    evaluate_checkpoint,
    limit_notes,
    open_checkpoint,
)
from decision_seq.evaluation.protocol import Evaluation, EvaluationConfig, check_environment
from decision_seq.evaluation.scores import score

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "Opened",
    "calibrate",
    "check_environment",
    "compute_device",
    "evaluate_checkpoint",
    "limit_notes",
    "open_checkpoint",
    "score",
]
