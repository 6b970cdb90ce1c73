"""Text and plot of the results of `decision_seq.analysis.model_error`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.escaping import picture, terminal
from decision_seq.formatting import interval_text, number_text
from decision_seq.report.plots import COLOURS, DASHES, canvas, legend_below
from decision_seq.report.text import table

SHOWN = 6  # dimensions of the first episode in the plot
ROWS = 6  # of the table, at most: steps spaced geometrically from the first to the last


def prediction_text(found: dict[str, Any]) -> str:
    """Table of the errors at some steps."""
    steps = found["steps"]
    moments = np.unique(np.geomspace(1, steps, min(ROWS, steps)).round().astype(int))
    names = list(found["errors"])

    def cell(curve: dict[str, Any], at: int) -> str:
        if curve["mean"][at] is None:
            return "-"
        interval = ""
        if curve["low"][at] is not None:
            interval = f" {interval_text((curve['low'][at], curve['high'][at]), 3)}"
        return f"{number_text(curve['mean'][at], 3)}{interval}"

    rows = [[f"{at:,}", *(cell(found["errors"][n], at - 1) for n in names)] for at in moments]
    about = (
        f"dataset      {terminal(found['dataset'])}\n"
        f"source       {terminal(found['source'])}\n"
        f"checkpoint   {terminal(found['checkpoint'])}\n"
        f"predicted    {steps:,} steps of {len(found['episodes'])} episodes, {found['samples']}"
        f" samples of each, from a context of {found['context']} transitions; the window has"
        f" {found['window']}; actions are those of the episodes\n"
        f"error        root mean square over the dimensions, in standard deviations of the data;"
        f" mean over episodes and 95 % interval; {found['stopped']:.0%} of the samples stopped"
    )
    return f"{about}\n\n{table(['step', *names], rows)}"


def plot_prediction(found: dict[str, Any], path: Path) -> None:
    """Draw some dimensions of the first episode, true and predicted, above all episodes' errors."""
    shown = {name: np.array(values, float) for name, values in found["shown"].items()}
    # The dimensions that vary most within the episode, in standard deviations of the data.
    varied = shown["true"].std(0) / shown["deviation"]
    dimensions = np.sort(np.argsort(-varied)[:SHOWN])
    steps = np.arange(1, found["steps"] + 1)
    with canvas(path, 13, 9.5) as figure:
        grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 1.3))
        panels = [figure.add_subplot(grid[divmod(place, 3)]) for place in range(len(dimensions))]
        for axes, dimension in zip(panels, dimensions, strict=True):
            low, median, high = (shown[name][:, dimension] for name in ("low", "median", "high"))
            axes.fill_between(steps, low, high, color=COLOURS[1], alpha=0.25, linewidth=0)
            axes.plot(
                steps, median, "--", color=COLOURS[1], label="above, predicted: median, 10 to 90 %"
            )
            axes.plot(steps, shown["true"][:, dimension], color=COLOURS[0], label="above, true")
            axes.axvline(found["window"] - found["context"], color="0.4", linestyle=":")
            axes.set_title(f"observation {dimension}", fontsize=12)
        axes = figure.add_subplot(grid[2, :])
        for number, (name, curve) in enumerate(found["errors"].items()):
            dash = DASHES[number % len(DASHES)]
            mean, low, high = (np.array(curve[what], float) for what in ("mean", "low", "high"))
            axes.plot(steps, mean, dash, color=COLOURS[number], label=name)
            axes.fill_between(steps, low, high, color=COLOURS[number], alpha=0.15)
        axes.axvline(
            found["window"] - found["context"], color="0.4", linestyle=":", label="window full"
        )
        axes.set_ylim(bottom=0)
        axes.set(xlabel="steps predicted", ylabel="error (standard deviations)")
        axes.legend(fontsize=10, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        legend_below(panels[0])
        about = picture(f"{found['dataset']}, {Path(found['checkpoint']).name}")
        figure.suptitle(
            f"{about}: open-loop prediction from"
            f" {found['context']} transitions, {len(found['episodes'])} episodes, the first above",
            fontsize=13,
        )
