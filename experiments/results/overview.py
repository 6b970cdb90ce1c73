"""Draw overview.png, the picture of the README, from the tables of pong.md and key-to-door.md.

python experiments/results/overview.py
"""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib import pyplot

FOLDER = Path(__file__).parent
BLUE, GREY, ORANGE = "#0072b2", "#808080", "#d55e00"
NUMBER = r"-?\d+(?:\.\d+)?"


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of the table of a page whose header begins with `first`."""
    lines = (FOLDER / page).read_text(encoding="utf-8").split(f"| {first} |")[1].splitlines()[2:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return table[: next((i for i, cells in enumerate(table) if len(cells) < 2), None)]


def numbers(cell: str) -> list[float]:
    """The numbers of a cell: `47.2 [26.5, 67.8]`, or `**75.7** (93, 67, 67)`."""
    return [float(number) for number in re.findall(NUMBER, cell)]


def draw_targets(axes: pyplot.Axes) -> None:
    """Pong: the human-normalised score against the target, with context and without."""
    table = rows("pong.md", "target")
    targets = [float(cells[0]) for cells in table]
    for column, label, colour in ((2, "30 steps of context", BLUE), (4, "1 step", GREY)):
        found = [numbers(cells[column]) for cells in table]
        means = [mean for mean, _, _ in found]
        axes.plot(targets, means, "o-", color=colour, label=label, linewidth=2)
        low, high = [low for _, low, _ in found], [high for _, _, high in found]
        axes.fill_between(targets, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="target return", ylabel="score (0 random, 100 human)", xticks=targets)
    axes.set_title("Pong: ask for more, get more", loc="left")
    axes.legend(frameon=False, loc="upper left")


def draw_credit(axes: pyplot.Axes) -> None:
    """Key-to-Door: success rates of three seeds and their mean, for both sizes of the data."""
    table = rows("key-to-door.md", "random walks")
    methods = (("Decision\nTransformer", 1, BLUE), ("behaviour\ncloning", 2, GREY))
    for group, cells in enumerate(table):
        for place, (_, column, colour) in enumerate(methods):
            mean, *seeds = numbers(cells[column])
            at = 2.6 * group + place
            axes.bar(at, mean, 0.8, color=colour, alpha=0.75)
            axes.plot([at - 0.2, at, at + 0.2], seeds, ".", color="black", markersize=6)
            axes.text(at, max(mean, *seeds, 5) + 2, f"{mean:g} %", ha="center")
        (random,) = numbers(cells[4])
        axes.hlines(random, 2.6 * group - 0.5, 2.6 * group + 1.5, color=ORANGE, linewidth=2)
        walks = re.match(r"[\d,]+", cells[0])
        axes.text(2.6 * group + 0.5, -32, f"{walks[0] if walks else ''} random walks", ha="center")
    axes.text(1.8, 5, "the data", color=ORANGE, ha="center")
    axes.set_xticks([0, 1, 2.6, 3.6], [name for name, _, _ in methods] * 2)
    axes.set(ylabel="success, %", ylim=(0, 112))
    axes.set_title("Key-to-Door: the first room decides the last", loc="left")


def draw(path: Path) -> None:
    """Write the picture."""
    pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.9), layout="constrained")
    draw_targets(left)
    draw_credit(right)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw(FOLDER / "overview.png")
