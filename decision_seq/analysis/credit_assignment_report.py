"""Text and plot of the results of `decision_seq.analysis.credit_assignment`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.escaping import picture, terminal
from decision_seq.report.explanation import explanation_rows
from decision_seq.report.plots import COLOURS, DASHES, canvas, legend_below
from decision_seq.report.text import table


def explanation_text(found: dict[str, Any]) -> str:
    """Table: how well the estimates separate outcomes, how they rise, and what is attended to."""
    about = (
        f"checkpoint   {terminal(found['checkpoint'])}\n"
        f"episodes     {found['episodes']:,} of uniform random actions in"
        f" {terminal(found['env_id'])}, from seed {found['seed']}; {found['event']} in"
        f" {found['happened']:,}, success in {found['succeeded']:,}"
    )
    heads = ["", "mean", "95 %", "interval", "episodes"]
    return f"{about}\n\n{table(heads, explanation_rows(found))}"


def plot_explanation(found: dict[str, Any], path: Path) -> None:
    """Draw the running estimates; below them one episode's attention and the last stage's mean."""
    estimates, attention = found["estimates"], found["attention"]
    both = ((_plot_estimates, estimates), (_plot_attention, attention))
    panels = [panel for panel, there in both if there]
    with canvas(path, 12, 5 * len(panels) + 0.5) as figure:
        rows = figure.subfigures(max(len(panels), 1), 1, squeeze=False)[:, 0]
        for row, panel in zip(rows, panels, strict=False):
            panel(row, found)
        name = f"{found['env_id']}, {Path(found['checkpoint']).name}"
        figure.suptitle(picture(name), fontsize=13)


def _plot_estimates(figure: Any, found: dict[str, Any]) -> None:
    estimates, axes = found["estimates"], figure.subplots()
    names = {
        "success": "success",
        "event": f"{found['event']}, no success",
        "neither": f"no {found['event']}",
    }
    for number, (name, curve) in enumerate(estimates["groups"].items()):
        steps = np.arange(1, len(curve["mean"]) + 1)
        label = f"{names[name]} ({curve['episodes']:,})"
        colour = COLOURS[number]
        axes.plot(steps, curve["mean"], DASHES[number], color=colour, linewidth=2.5, label=label)
        axes.fill_between(steps, curve["low"], curve["high"], color=colour, alpha=0.15)
        for row in estimates["shown"][name]:
            axes.plot(range(1, len(row) + 1), row, color=colour, alpha=0.3, linewidth=0.8)
    _mark_stages(axes, estimates["stages"], found["stage"])
    axes.set(xlabel="step", ylabel="expected return", title="expected return after each step")
    legend_below(axes)


def _plot_attention(figure: Any, found: dict[str, Any]) -> None:
    attention = found["attention"]
    left, right = figure.subplots(1, 2)
    shown = attention["shown"]
    image = left.imshow(np.array(shown["map"]), cmap="magma", vmax=0.5)
    figure.colorbar(image, ax=left, shrink=0.8)
    left.axvline(shown["event"], color="white", linestyle=":")
    left.set(xlabel="key step", ylabel="query step", title=f"an episode (dotted: {found['event']})")
    for number, (step, curve) in enumerate(attention["by_event_step"].items()):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
        label = f"{found['event']} at step {int(step) + 1} ({curve['episodes']:,})"
        right.plot(range(1, len(curve["mean"]) + 1), curve["mean"], label=label, **style)
        right.plot(int(step) + 1, curve["mean"][int(step)], "o", color=style["color"])
    _mark_stages(right, shown["stages"], found["stage"])
    right.set(xlabel="step", ylabel="attention")
    right.set_title(
        f"attention of {found['stage']} {attention['last_stage']} (dots: {found['event']})"
    )
    legend_below(left, right)


def _mark_stages(axes: Any, stages: list[int], name: str) -> None:
    """Mark where each stage after the first begins."""
    for at in np.flatnonzero(np.diff(stages)):
        axes.axvline(at + 1.5, color="0.4", linestyle=":")
        axes.text(at + 1.7, axes.get_ylim()[1], f"{name} {stages[at + 1]}", fontsize=9, va="top")
