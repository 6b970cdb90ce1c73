"""An episode as a still image: pictures of some steps above the curve of its return-to-go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from decision_seq.escaping import picture
from decision_seq.report.plots import COLOURS, canvas

STILLS = 8
KEPT = 4 * STILLS


class Stills:
    """Frames spread evenly over an episode whose length is known only at its end.

    At most KEPT frames are stored: when there are more, every second one is dropped.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[int, np.ndarray]] = []
        self.last: tuple[int, np.ndarray] | None = None
        self.seen, self.every = 0, 1

    def see(self, step: int, frame: np.ndarray, ended: bool) -> None:
        if ended:
            self.last = step, frame
            return
        if self.seen % self.every == 0:
            self.kept.append((step, frame))
        self.seen += 1
        if len(self.kept) > KEPT:
            self.kept, self.every = self.kept[::2], 2 * self.every

    def chosen(self) -> list[tuple[int, np.ndarray]]:
        """At most STILLS frames, evenly spaced, with the first and the last."""
        frames = [*self.kept, *([self.last] if self.last else [])]
        count = min(STILLS, len(frames))
        steps = np.array([step for step, _ in frames])
        wanted = np.linspace(0, steps[-1], count)
        rows = sorted({int(np.abs(steps - step).argmin()) for step in wanted})
        return [frames[row] for row in rows]


def draw_strip(
    path: Path,
    env_id: str,
    target: float | None,
    seed: int,
    rewards: Sequence[float],
    stills: Sequence[tuple[int, np.ndarray]],
) -> None:
    """Write the PNG; rewards: those of all steps.

    The curve below the stills is the return-to-go, or without a target the return so far.
    """
    curve = np.concatenate([[0.0], np.cumsum(rewards)])
    if target is not None:
        curve = target - curve
    with canvas(path, 16, 6.4, widen=False) as figure:
        grid = figure.add_gridspec(2, STILLS, height_ratios=(1.0, 1.7))
        for column, (step, frame) in enumerate(stills):
            axes = figure.add_subplot(grid[0, column])
            axes.imshow(frame)
            axes.set_title(f"step {step}", fontsize=18)
            axes.set_axis_off()
        axes = figure.add_subplot(grid[1, :])
        axes.plot(curve, color=COLOURS[0], linewidth=3)
        axes.axhline(0, color="0.4", linewidth=1.5, linestyle="--")
        marks = [step for step, _ in stills]
        axes.plot(marks, curve[marks], "o", color=COLOURS[1], markersize=9)
        axes.set_xlim(0, max(len(rewards), 1))
        axes.set_xlabel("step", fontsize=20)
        label = "return so far" if target is None else "return-to-go\n(target - return so far)"
        axes.set_ylabel(label, fontsize=20)
        axes.tick_params(labelsize=18)
        condition = "" if target is None else f"target {target:,.6g}, "
        figure.suptitle(
            f"{picture(env_id)}, seed {seed}: {condition}return {sum(rewards):,.6g} in"
            f" {len(rewards)} steps",
            fontsize=22,
        )
