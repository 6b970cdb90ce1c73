"""Text and plot of the results of `decision_seq.analysis.hindsight_matching`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.escaping import picture, terminal
from decision_seq.formatting import interval_text, number_text
from decision_seq.report.plots import COLOURS, drawing, legend_below
from decision_seq.report.text import table

CONDITIONS = {
    "schedule": "at each step, the target's label of that step",
    "constant": "one distribution for all steps",
    "none": "no target; rolled out once and compared with every target",
}
COLUMNS = 3  # of panels in the plot


def matching_text(found: dict[str, Any]) -> str:
    """Table of the distance to each target, and the mean distance."""

    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else number_text(value, digits)

    rows = [
        [
            f"{place}: {target['name']}",
            number(target["steps"], 0),
            number(target["mean"], 3),
            number(target["obtained"]["mean"], 3),
            number(target["distance"], 3),
            _with_interval(target["episode_distance"], target["episode_interval_95"]),
            number(target["data_distance"], 3),
        ]
        for place, target in enumerate(found["targets"])
    ]
    header = ["target", "steps", "mean", "result", "distance", "per episode", "of the data"]
    notes = "".join(f"note         {terminal(note)}\n" for note in found["notes"])
    about = (
        f"dataset      {terminal(found['dataset'])}\n"
        f"source       {terminal(found['source'])}\n"
        f"checkpoint   {terminal(found['checkpoint'])}\n"
        f"environment  {terminal(found['env_id'])}\n"
        f"feature      {found['feature']}, {len(found['edges']) - 1} bins from"
        f" {found['edges'][0]:.4g} to {found['edges'][-1]:.4g}\n"
        f"policy       {found['policy']}, conditioning {found['conditioning']}\n"
        f"condition    {CONDITIONS[found['condition']]}\n"
        f"{notes}"
        f"distance     earth mover's, to the target's histogram: of the pooled steps of all"
        f" {found['episodes']} episodes; of single episodes, mean and its 95 % interval; of all"
        " steps of the data"
    )
    count = len(rows)
    mean = _with_interval(found["distance"], found["interval_95"])
    return f"{about}\n\n{table(header, rows)}\n\nmean distance over {count} target(s): {mean}"


def _with_interval(mean: float, interval: list[float] | None) -> str:
    low_high = (interval[0], interval[1]) if interval else None
    return number_text(mean, 3) + (f" {interval_text(low_high, 3)}" if low_high else "")


def plot_matching(found: dict[str, Any], path: Path) -> None:
    """Draw the target's and the result's histogram, one panel per target."""
    targets, edges = found["targets"], np.array(found["edges"])
    columns = min(COLUMNS, len(targets))
    rows = math.ceil(len(targets) / columns)
    with drawing(path, rows, columns, 5.5, 3.8) as panels:
        for place, axes in enumerate(panels.flat):
            if place >= len(targets):
                axes.set_axis_off()
                continue
            target = targets[place]
            shares = target["shares"]
            axes.stairs(shares, edges, fill=True, color=COLOURS[0], alpha=0.35, label="target")
            result = target["obtained"]["shares"]
            axes.stairs(
                result, edges, color=COLOURS[1], linestyle="--", linewidth=2.2, label="result"
            )
            distance = number_text(target["distance"], 3)
            axes.set_title(f"{picture(target['name'])}: distance {distance}", fontsize=12)
            axes.set_xlabel(found["feature"])
            axes.set_ylabel("share of the steps")
        legend_below(panels.flat[0])
        about = picture(f"{found['dataset']}, {Path(found['checkpoint']).name}")
        panels.flat[0].figure.suptitle(
            f"{about}: {found['episodes']} episodes a target;"
            f" {found['policy']}, conditioning {found['conditioning']}",
            fontsize=13,
            wrap=True,  # a single panel is narrower than this text
        )
