"""Calibration of a policy: achieved returns over a range of target returns (Chen et al., 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from decision_seq.config import require
from decision_seq.evaluation.checkpoints import Opened
from decision_seq.report.statistics import returns_interval
from decision_seq.types import Reporter

MOST = 1_000  # largest number of targets
BEYOND = 0.2  # extent above the data's best return, as a share of the range of returns


def calibrate(opened: Opened, points: int, reporter: Reporter | None = None) -> dict[str, Any]:
    """Roll out at `points` targets from the data's worst return to beyond their best.

    Returns plain values for `report.plots.plot_calibration`. UserError for a policy without a
    target return, or a checkpoint that does not hold the returns of its data.
    """
    facts, evaluation = opened.loaded.facts, opened.evaluation
    known = facts.return_percentiles
    require(2 <= points <= MOST, f"{points} targets asked for; a calibration has 2 to {MOST:,}")
    require(
        evaluation.conditioning.asks,
        f"{opened.loaded.path} was trained to be asked for nothing; there is nothing to calibrate",
    )
    require(
        known is not None,
        f"{opened.loaded.path} does not know the returns of its data; give --target instead",
    )
    assert known is not None
    require(
        known[-1] > known[0],
        f"every episode of {opened.loaded.path}'s data returns {known[0]:g}; there is no range of"
        " targets to calibrate over",
    )
    highest = known[-1] + BEYOND * (known[-1] - known[0])
    targets = tuple(float(target) for target in np.linspace(known[0], highest, points))
    asked = dataclasses.replace(opened, evaluation=dataclasses.replace(evaluation, targets=targets))
    scores = asked.scores(reporter)
    return {
        "dataset": scores.dataset,
        "source": scores.source,
        "env_id": scores.env_id,
        "checkpoint": scores.checkpoint,
        "episodes": evaluation.episodes,
        "seed": evaluation.seed,
        "reference_scores": facts.reference_scores,
        "data_return_quantiles": {str(percent): value for percent, value in enumerate(known)},
        "points": [
            {
                "target": target.target,
                "return_mean": target.return_mean,
                "interval_95": returns_interval(np.array(target.returns)),
                "returns": target.returns,
            }
            for target in scores.targets
        ],
    }
