"""Score of a target from the returns of its episodes."""

from __future__ import annotations

import numpy as np

from decision_seq.envs import normalize
from decision_seq.report.statistics import returns_interval
from decision_seq.types import TargetScore


def score(
    target: float | None,
    returns: np.ndarray,
    lengths: np.ndarray,
    seed: int,
    reference_scores: tuple[float, float] | None,
) -> TargetScore:
    """Summarise one target's episodes; the score is normalised where reference scores are known."""
    low, high = returns_interval(returns)
    mean = float(returns.mean())
    normalized = None
    if reference_scores is not None:
        normalized, low, high = (normalize(v, reference_scores) for v in (mean, low, high))
    return TargetScore(
        target=target,
        returns=[float(value) for value in returns],
        lengths=[int(value) for value in lengths],
        seed=seed,
        return_mean=mean,
        return_std=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        normalized_score=normalized,
        interval_95=(low, high) if len(returns) > 1 else None,
        episodes=len(returns),
    )
