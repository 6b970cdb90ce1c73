"""Charts of a page beside learning curves: performance profiles and calibrations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from decision_seq.formatting import interval_text, number_text, target_text
from decision_seq.report.compare import Comparison
from decision_seq.report.html.axes import Axis, spanning
from decision_seq.report.html.drawing import (
    X_SPAN,
    Y_SPAN,
    Chart,
    Guide,
    Look,
    Series,
    Value,
    points,
    steps,
)
from decision_seq.report.plots import RETURN, score_axis
from decision_seq.report.statistics import performance_profile, profile_band
from decision_seq.report.summary import shared

THRESHOLDS = 151


def profile_chart(comparison: Comparison, rng: np.random.Generator) -> Chart | None:
    """The share of runs above each score, over the common tasks.

    None where there is nothing to compare: a single run a method, or no reference scores.
    """
    methods, tasks = shared(comparison)
    scores = {label: {row: comparison.normalized(label)[row] for row in tasks} for label in methods}
    every = [score for of in scores.values() for runs in of.values() for score in runs]
    if len(every) <= len(methods):
        return None
    x = spanning(every, *X_SPAN)
    y = Axis(0.0, 1.0, *Y_SPAN)
    thresholds = np.linspace(x.low, x.high, THRESHOLDS)
    series = []
    for label, of in scores.items():
        shares = performance_profile(of, thresholds)
        values = [
            Value(
                (x(at), y(share)), f"score {number_text(at)}", f"{100 * share:.0f} % of runs above"
            )
            for at, share in zip(thresholds.tolist(), shares.tolist(), strict=True)
        ]
        ends = profile_band(of, thresholds, rng)
        polygon = "" if ends is None else _stepped_band(x, y, thresholds, ends)
        look = Look.of(comparison.labels.index(label))
        series.append(Series(label, look, tuple(values), band=polygon, marked=False, stepped=True))
    return Chart(
        "profiles",
        "Performance profiles",
        f"Share of runs with a score above each threshold, over {len(tasks)} datasets.",
        x,
        y,
        score_axis(comparison.rows[task].env_id for task in tasks),
        "share of runs above",
        tuple(series),
    )


def _stepped_band(x: Axis, y: Axis, thresholds: np.ndarray, ends: np.ndarray) -> str:
    low, high = (
        steps([(x(at), y(end)) for at, end in zip(thresholds, row, strict=True)]) for row in ends
    )
    return points([*high, *reversed(low)])


def calibration_chart(found: dict[str, Any], name: str, title: str, look: Look) -> Chart:
    """Returns against target returns. found: a checked calibration.json."""
    ordered = sorted(found["points"], key=lambda point: point["target"])
    targets = [point["target"] for point in ordered]
    returns = [number for point in ordered for number in (*point["returns"], point["return_mean"])]
    known = found["data_return_quantiles"]
    x = spanning([*targets, known["50"], known["100"]], *X_SPAN)
    y = spanning([*returns, *(end for end in (min(targets), known["100"]))], *Y_SPAN)
    values, bars, dots = [], [], []
    for point in ordered:
        at, mean, ends = x(point["target"]), point["return_mean"], point["interval_95"]
        text = number_text(mean)
        if ends is not None and len(point["returns"]) > 1:
            text += f" {interval_text(ends, 1, ',')}"
            bars.append((at, y.clamped(ends[1]), y.clamped(ends[0])))
        values.append(Value((at, y(mean)), f"target {target_text(point['target'])}", text))
        dots += [(at, y(number)) for number in point["returns"]]
    solid = replace(look, dash=0)  # the dashed line is the ideal
    series = Series("mean return", solid, tuple(values), bars=tuple(bars), dots=tuple(dots))
    low, high = max(x.low, y.low), min(x.high, y.high)
    guides = [Guide((x(low), y(low), x(high), y(high)), "return = target", 1)] if low < high else []
    for kind, (key, text) in enumerate((("100", "best"), ("50", "median")), start=2):
        at = x(known[key])
        guides.append(Guide((at, Y_SPAN[0], at, Y_SPAN[1]), f"{text} return in the data", kind))
    return Chart(
        name,
        title,
        f"{title}: mean return at {len(ordered)} target returns.",
        x,
        y,
        "target return (sum of raw rewards)",
        RETURN,
        (series,),
        tuple(guides),
    )
