"""The summary of a page in words: what was compared, on which data, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass

from decision_seq.formatting import interval_text, number_text
from decision_seq.report.compare import Comparison, Estimate, Group, counted
from decision_seq.report.published_context import fitting

MOST = 12  # datasets of which the summary names the highest mean


@dataclass(frozen=True)
class Words:
    """The summary of a page."""

    title: str
    counts: list[tuple[str, str]]
    """Names and numbers."""
    about: list[str]
    """Sentences: what was compared, and how a score is made."""
    findings: list[tuple[int, str, str]]
    """Number and name of a row, and what its scores show."""
    unsaid: int
    """Rows of which no finding is named."""
    published: list[str]
    """Sentences about published numbers."""


def words(comparison: Comparison) -> Words:
    groups = list(comparison.groups.values())
    runs = sum(len(group.runs) for group in groups)
    methods, rows = len(comparison.labels), len(comparison.rows)
    seeds = [len(group.runs) for group in groups]
    datasets = len({protocol.dataset for protocol in comparison.rows.values()})
    counts = ((runs, "Run"), (methods, "Method"), (datasets, "Dataset"))
    findings = [
        (
            number,
            row,
            _finding([group for (of, _), group in comparison.groups.items() if of == row]),
        )
        for number, row in enumerate(comparison.rows)
    ]
    named = ", ".join(comparison.labels)
    about = [
        f"{_count(runs, 'finished run')} of {_count(methods, 'method')} ({named}) on"
        f" {_count(datasets, 'dataset')}"
        + (f", under {rows} protocols." if rows > datasets else "."),
        "Every score is of a run's last checkpoint at its first target. No checkpoint was chosen"
        " by its score. "
        + (
            "Some targets were chosen after training, see the notes."
            if any(run.former_targets for group in groups for run in group.runs)
            else "Targets were declared before training."
        ),
        _intervals(groups),
    ]
    return Words(
        _title(comparison),
        [
            *((_plural(number, noun), str(number)) for number, noun in counts),
            ("Seeds a method", _range(seeds)),
        ],
        about,
        findings[:MOST],
        max(0, rows - MOST),
        _published(comparison),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {_plural(number, noun)}"


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _title(comparison: Comparison) -> str:
    """The heading: names where they are few, else numbers."""
    labels, rows = comparison.labels, list(comparison.rows)
    methods = " and ".join(labels) if len(labels) <= 2 else f"{len(labels)} methods"
    datasets = {protocol.dataset for protocol in comparison.rows.values()}
    data = rows[0] if len(rows) == 1 else _count(len(datasets), "dataset")
    return f"{methods} on {data}"


def _intervals(groups: list[Group]) -> str:
    over = {group.estimate().over for group in groups}
    seeds = "Student's t over training seeds"
    episodes = "over the episodes of a single run, which leaves out how much seeds differ"
    if over == {"seeds"}:
        return f"Intervals are of 95 %, {seeds}."
    if over == {"episodes"}:
        return f"Intervals are of 95 %, {episodes}."
    return f"Intervals are of 95 %: {seeds} where there are several, else {episodes}."


def _finding(groups: list[Group]) -> str:
    """The highest mean of a row, and whether its interval overlaps the next."""
    ranked = sorted(groups, key=lambda group: -group.estimate().mean)
    first = ranked[0].estimate()
    if len(ranked) == 1:
        return f"{_named(ranked[0])}, the only method."
    second = ranked[1].estimate()
    text = f"highest mean {_named(ranked[0])}; next {_named(ranked[1])}. "
    if first.interval is None or second.interval is None:
        return f"{text}One of them has no interval, so the order is not established."
    if first.interval[0] <= second.interval[1]:
        return f"{text}Their intervals overlap, so the order is not established."
    return f"{text}Their intervals do not overlap."


def _named(group: Group) -> str:
    estimate = group.estimate()
    return f"{group.label} {_text(estimate)} ({counted(estimate)})"


def _text(estimate: Estimate) -> str:
    separator = "" if estimate.normalized else ","
    text = number_text(estimate.mean, group=separator)
    if estimate.interval is not None:
        text += f" {interval_text(estimate.interval, 1, separator)}"
    return text if estimate.normalized else f"{text} raw"


def _published(comparison: Comparison) -> list[str]:
    """Whether published numbers are a comparison or only context, row by row."""
    compared, context, none = [], [], []
    for row, protocol in comparison.rows.items():
        if not fitting([protocol]):
            none.append(row)
        elif protocol.comparable:
            compared.append(row)
        else:
            context.append(row)
    sentences = []
    if compared:
        sentences.append(
            f"Published numbers are a comparison on {_listed(compared)}: the data are D4RL's own"
            " files, by their checksums (by their names where none were published). Published"
            " scores come from mujoco-py."
        )
    if context:
        sentences.append(
            f"Published numbers are only context on {_listed(context)}: these runs were not"
            " trained on the data of the publications, so a difference says nothing about the"
            " method."
        )
    if none:
        sentences.append(f"No published numbers are known for {_listed(none)}.")
    return sentences


def _listed(names: list[str]) -> str:
    shown = names[:MOST]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
