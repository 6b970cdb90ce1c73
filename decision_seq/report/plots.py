"""Plots of results, readable without the text around them.

Colours are those of Okabe and Ito (2008), which are distinct for every kind of colour vision;
methods also differ in marker and dash. Fonts stay legible at half the size.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decision_seq.envs.atari_scores import ATARI
from decision_seq.escaping import picture
from decision_seq.formatting import target_text
from decision_seq.machine.files import replacing
from decision_seq.report.compare import Comparison, Group, counted, loss_curve, score_curve
from decision_seq.report.statistics import performance_profile, profile_band
from decision_seq.report.summary import shared
from decision_seq.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTS = (".png", ".svg", ".pdf")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
STYLE: Any = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 2.2,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "axes.formatter.limits": (-3, 7),  # 0.0001 as 1e-4 at the axis' end, not at every tick
}
RETURN = "return (sum of raw rewards)"
TITLE, LABEL = 58, 30  # letters in a line of a title and of a label


def score_axis(env_ids: Iterable[str]) -> str:
    """The label of an axis of normalized scores; in Atari 100 is a human's score."""
    best = sorted({"human" if env_id.startswith(ATARI) else "expert" for env_id in env_ids})
    return f"normalized score (0 random, 100 {' or '.join(best)})"


def folded(text: str, width: int) -> str:
    """The text in lines of `width` letters at most, broken after spaces, slashes and hyphens."""
    lines: list[str] = []
    for whole in text.splitlines():
        lines.append("")
        for part in re.findall(r"[^ /_-]*[ /_-]?", whole):
            if len(lines[-1] + part.rstrip()) > width:
                lines.append("")
            lines[-1] += part[:width]
            lines += [part[at : at + width] for at in range(width, len(part), width)]
    return "\n".join(line.strip() for line in lines if line.strip())


def legend_below(*axes: Axes) -> None:
    """A legend of the axes below their figure, where it covers no curve; equal names once."""
    named: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            named.setdefault(label, handle)
    if named:
        names = [folded(label, 2 * LABEL) for label in named]
        columns = 1 if max(map(len, named)) > LABEL else min(2 * len(axes), len(named))
        axes[0].figure.legend(
            list(named.values()), names, loc="outside lower center", ncols=columns, fontsize=10
        )


def _log_ticks(axes: Axes) -> None:
    """Few ticks with numbers on a logarithmic y axis, for a narrow and for a wide range."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    wide = high > 1000 * low
    narrow = high < 10 * low
    axes.yaxis.set_major_locator(
        MaxNLocator(5) if narrow else LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0))
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:.3g}")


@contextlib.contextmanager
def drawing(
    path: Path, rows: int = 1, columns: int = 1, width: float = 7, height: float = 4.5
) -> Iterator[np.ndarray]:
    """An image with axes [rows, columns], each `width` by `height` inches: see `canvas`."""
    with canvas(path, width * columns, height * rows) as figure:
        yield figure.subplots(rows, columns, squeeze=False)


@contextlib.contextmanager
def canvas(path: Path, width: float, height: float, widen: bool = True) -> Iterator[Figure]:
    """A figure of `width` by `height` inches, written on exit, whole or not at all.

    widen: whether the picture becomes larger where its content does not fit, and is not cut. pyplot
    is not used, because it keeps figures alive. UserError when the file type is unknown or the file
    cannot be written.
    """
    check_suffix(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            bounds = "tight" if widen else None
            with replacing(path) as partial:
                figure.savefig(partial, dpi=150, format=path.suffix[1:], bbox_inches=bounds)
        except OSError as error:
            raise UserError(f"cannot draw {path}: {error.strerror or error}") from error


def check_suffix(path: Path) -> None:
    """UserError unless the file's suffix is a supported image type."""
    if path.suffix not in PLOTS:
        raise UserError(f"cannot draw {path}: name a file that ends in {', '.join(PLOTS)}")


def _style(comparison: Comparison, label: str) -> dict[str, Any]:
    """A method's colour and dash, the same in every plot of a report."""
    number = comparison.labels.index(label)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def _marker(comparison: Comparison, label: str) -> str:
    return MARKERS[comparison.labels.index(label) % len(MARKERS)]


def plot_returns(name: str, returns: Any, targets: Sequence[float], path: Path) -> None:
    """Draw the histogram of the episodes' returns, with the suggested targets.

    UserError where a return is not finite.
    """
    if not np.isfinite(returns).all():
        raise UserError(f"{name}: its returns are not finite, so they cannot be drawn")
    with drawing(path) as ((axes,),):
        axes.hist(returns, bins=50, color="0.6")
        for number, target in enumerate(targets):
            axes.axvline(
                target,
                color=COLOURS[1 + number % (len(COLOURS) - 1)],
                linestyle=DASHES[number % len(DASHES)],
                label=f"suggested target {target_text(target)}",
            )
        axes.set(xlabel=RETURN, ylabel="episodes")
        axes.set_title(folded(f"{picture(name)}: {len(returns):,} episodes", TITLE), fontsize=12)
        legend_below(axes)


def plot_learning(comparison: Comparison, row: str, path: Path) -> None:
    """Draw scores and training loss by update: the mean over seeds thick, each seed thin."""
    with drawing(path, 1, 2) as ((scores, losses),):
        groups = [g for (of, _), g in comparison.groups.items() if of == row]
        for group in groups:
            style = _style(comparison, group.label)
            marker = _marker(comparison, group.label)
            _curves(
                scores, [score_curve(run) for run in group.runs], group, {**style, "marker": marker}
            )
            _curves(losses, [loss_curve(run) for run in group.runs], group, style)
        scores.set(xlabel="updates", ylabel=axis_of_row(comparison, row))
        title = folded(f"{picture(row)}: evaluations at the first target", TITLE)
        scores.set_title(title, fontsize=12)
        log = _is_positive(losses)
        losses.set(xlabel="updates", ylabel="loss (log scale)" if log else "loss")
        losses.set_title("training", fontsize=12)
        for axes in (scores, losses):
            axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            losses.set_yscale("log")
            _log_ticks(losses)
        legend_below(scores, losses)


def _is_positive(axes: Axes) -> bool:
    """Whether all values of the lines are above 0; a logarithmic axis leaves others out."""
    return all((np.asarray(line.get_ydata(), float) > 0).all() for line in axes.lines)


def axis_of_row(comparison: Comparison, row: str) -> str:
    """The label of the axis of a row's scores."""
    groups = [group for (of, _), group in comparison.groups.items() if of == row]
    normalized = groups[0].estimate().normalized
    return score_axis([comparison.rows[row].env_id]) if normalized else RETURN


def _curves(
    axes: Axes, curves: list[list[tuple[int, float]]], group: Group, style: dict[str, Any]
) -> None:
    """Draw each curve and their mean, taken at the updates that all curves have."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    seeds = f"{len(curves)} seeds" if len(curves) > 1 else "1 seed"
    name = picture(group.label)
    label = f"{name}, mean of {seeds}" if len(curves) > 1 else f"{name}, {seeds}"
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=style["color"], linewidth=0.8, alpha=0.45)
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(t) for t in tables)))
    means = [float(np.mean([t[step] for t in tables])) for step in shared]
    axes.plot(shared, means, label=label, markersize=6, **style)


def plot_seeds(comparison: Comparison, path: Path) -> None:
    """Draw one panel per row: each seed's headline score, and the mean with its interval."""
    rows = list(comparison.rows)
    columns = min(3, len(rows))
    height = 1.6 + 0.75 * len(comparison.labels)
    with drawing(path, -(-len(rows) // columns), columns, 6.5, height) as panels:
        for row, axes in zip(rows, panels.flat, strict=False):
            _points(comparison, row, axes)
        for axes in panels.flat[len(rows) :]:
            axes.set_visible(False)


def _points(comparison: Comparison, row: str, axes: Axes) -> None:
    groups = [g for (of, _), g in comparison.groups.items() if of == row]
    for height, group in enumerate(reversed(groups)):
        estimate = group.estimate()
        colour, marker = _style(comparison, group.label)["color"], _marker(comparison, group.label)
        values = group.values()
        if estimate.over == "seeds":
            axes.plot(values, [height + 0.18] * len(values), marker, color=colour, alpha=0.5)
        reach = [[0.0], [0.0]]
        if estimate.interval is not None:
            low, high = estimate.interval
            reach = [[estimate.mean - low], [high - estimate.mean]]
        axes.errorbar(
            estimate.mean, height, xerr=reach, fmt=marker, color=colour, capsize=5, markersize=9
        )
    names = [
        f"{folded(picture(g.label), LABEL)}\n({counted(g.estimate())})" for g in reversed(groups)
    ]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(-0.5, len(groups) - 0.3)
    axes.set(xlabel=axis_of_row(comparison, row))
    axes.locator_params(axis="x", nbins=6)
    title = folded(picture(row), 40)
    axes.set_title(f"{title}\nmean, 95 % interval; small: each seed", fontsize=12)


def plot_profiles(comparison: Comparison, path: Path, rng: np.random.Generator) -> None:
    """Draw the share of runs above each score, with pointwise bands, over the common tasks.

    ValueError where `summary.shared` finds no common task.
    """
    methods, tasks = shared(comparison)
    scores = {label: {row: comparison.normalized(label)[row] for row in tasks} for label in methods}
    every = np.concatenate([runs for of in scores.values() for runs in of.values()])
    margin = max(1.0, 0.05 * float(np.ptp(every)))
    thresholds = np.linspace(every.min() - margin, every.max() + margin, 201)
    with drawing(path) as ((axes,),):
        for label, of in scores.items():
            style = _style(comparison, label)
            axes.plot(
                thresholds, performance_profile(of, thresholds), label=picture(label), **style
            )
            band = profile_band(of, thresholds, rng)
            if band is not None:
                axes.fill_between(thresholds, *band, color=style["color"], alpha=0.15, linewidth=0)
            axes.set(
                title=f"performance profile, {len(tasks)} task(s); band: pointwise 95 % bootstrap",
                xlabel=score_axis(comparison.rows[task].env_id for task in tasks),
                ylabel="share of runs above",
                ylim=(-0.03, 1.03),
            )
        axes.title.set_fontsize(12)
        legend_below(axes)


def plot_calibration(calibration: dict[str, Any], path: Path) -> None:
    """Draw returns against target returns.

    calibration: "dataset", "env_id", "checkpoint", "episodes", "reference_scores" (or None),
    "data_return_quantiles" {"0": ..., "50": ..., "100": ...} and "points", each with "target",
    "return_mean", "interval_95" of that mean (or None) and "returns".
    """
    with drawing(path, 1, 1, 7.5, 6) as ((axes,),):
        points = sorted(calibration["points"], key=lambda point: point["target"])
        targets = [point["target"] for point in points]
        means = np.array([point["return_mean"] for point in points])
        for number, point in enumerate(points):
            axes.plot(
                [point["target"]] * len(point["returns"]),
                point["returns"],
                ".",
                color="0.55",
                markersize=4,
                label="single episodes" if number == 0 else None,
            )
        ends = [point["interval_95"] or (point["return_mean"],) * 2 for point in points]
        reach = np.abs(np.array(ends).T - means)
        axes.errorbar(
            *(targets, means),
            yerr=reach,
            fmt="o-",
            color=COLOURS[0],
            capsize=4,
            label=f"mean of {calibration['episodes']}, 95 % interval",
        )
        quantiles = calibration["data_return_quantiles"]
        ideal = [min(0.0, *targets), max(targets)]
        axes.plot(ideal, ideal, "--", color="0.2", linewidth=1.5, label="return = target")
        axes.axvline(
            quantiles["100"], color=COLOURS[1], linestyle="-.", label="best return in the data"
        )
        axes.axvline(
            quantiles["50"], color=COLOURS[4], linestyle=":", label="median return in the data"
        )
        axes.set(xlabel="target return (sum of raw rewards)", ylabel=RETURN)
        about = f"{calibration['env_id']}, {Path(calibration['checkpoint']).name}"
        axes.set_title(
            folded(picture(calibration["dataset"]), TITLE) + "\n" + folded(picture(about), TITLE),
            fontsize=12,
        )
        if calibration["reference_scores"]:
            _normalized_axis(axes, calibration["env_id"], *calibration["reference_scores"])
        legend_below(axes)


def _normalized_axis(axes: Axes, env_id: str, low: float, high: float) -> None:
    """Add a right axis that shows the same returns as normalized scores."""
    span = high - low

    def normalized(returns: Any) -> Any:
        return 100 * (returns - low) / span

    def raw(scores: Any) -> Any:
        return low + scores * span / 100

    right = axes.secondary_yaxis("right", functions=(normalized, raw))
    right.set_ylabel(score_axis([env_id]))
