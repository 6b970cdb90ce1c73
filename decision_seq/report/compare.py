"""Which runs may be averaged, what they come to, and what must be said beside it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decision_seq.config import flat
from decision_seq.data import d4rl
from decision_seq.report.published import task_name
from decision_seq.report.runs import Run, value
from decision_seq.report.text import target_text
from decision_seq.statistics import Interval, mean_interval

# Keys that say nothing of a method: its data and protocol make the row, its seed the replicate,
# and the rest how a run is watched and kept.
NOT_OF_THE_METHOD = (
    *("dataset", "seed", "collection.", "evaluation."),
    *("train.log_every", "train.checkpoint_every", "train.keep_", "train.trackers"),
    *("train.peak_tflops", "train.data_on_device", "train.parallel", "train.accumulation"),
    *("train.checkpoint_activations", "train.compile", "train.cuda_graph"),
)
# Said in every label they are in: which of the best episodes are trained on, that rewards came as
# one sum, and that a policy which could be asked for a return is asked for nothing.
BEST, LEAST, DELAYED = "best_fraction", "least_return", "delayed"
ASKED = "conditioning.name"
NEVER_ASKED = ("bc",)


@dataclass(frozen=True)
class Protocol:
    """What must be equal for scores to stand in one row; targets: None asks for no return."""

    dataset: str
    env_id: str
    acting: str
    source: str
    size: str
    episodes: int
    seed: int
    targets: tuple[float, ...] | None

    @classmethod
    def of(cls, run: Run) -> Protocol:
        scores, first = run.scores, run.headline
        asked = tuple(target for target in run.targets if target is not None) or None
        return cls(
            scores.dataset,
            scores.env_id,
            run.acting,
            scores.source,
            run.size,
            first.episodes,
            first.seed,
            asked,
        )

    @property
    def comparable(self) -> bool:
        """Whether published numbers, of D4RL's newest data, may be compared with; or are context.

        Older versions are other data (locomotion's: kzl/decision-transformer#42).
        """
        return d4rl.own_dataset(self.source) == d4rl.versioned(self.task) is not None

    @property
    def task(self) -> str:
        return task_name(self.dataset)

    def differences(self, other: Protocol) -> list[str]:
        return [
            key
            for key in ("env_id", "acting", "source", "size", "episodes", "seed", "targets")
            if getattr(self, key) != getattr(other, key)
        ]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval by Student's t.

    over: what was counted: `seeds`, or `episodes` of one seed. interval: None of a single one.
    """

    mean: float
    interval: Interval | None
    over: str
    count: int
    normalized: bool


def counted(estimate: Estimate) -> str:
    """`5 seeds`, `50 episodes of 1 seed`: what the interval is about."""
    if estimate.over == "seeds":
        return f"{estimate.count} seeds"
    return f"{estimate.count} episode{'s' if estimate.count > 1 else ''} of 1 seed"


@dataclass(frozen=True)
class Group:
    """The runs of one method by one protocol: they differ in their seed alone."""

    row: str
    label: str
    runs: tuple[Run, ...]

    def values(self, index: int = 0) -> list[float]:
        """Every run's score of its last checkpoint at the target of that number."""
        return [value(run.scores.targets[index]) for run in self.runs]

    def estimate(self, index: int = 0) -> Estimate:
        """Seeds are the unit where there are several, the one seed's episodes otherwise."""
        first = self.runs[0].scores.targets[index]
        normalized = first.normalized_score is not None
        if len(self.runs) == 1:
            return Estimate(value(first), first.interval_95, "episodes", first.episodes, normalized)
        values = self.values(index)
        mean = sum(values) / len(values)
        return Estimate(mean, mean_interval(values), "seeds", len(values), normalized)

    @property
    def evaluations(self) -> int:
        """How many evaluations every run of the group has at the least."""
        return min(len(run.evaluations) for run in self.runs)

    def best_of_evaluations(self) -> float | None:
        """Mean over seeds of each seed's best evaluation: what must never be quoted as a result."""
        if self.evaluations < 2:
            return None
        return _mean(
            [max(value(record["targets"][0]) for record in run.evaluations) for run in self.runs]
        )

    def best_of_targets(self) -> float | None:
        """Mean over seeds of the last checkpoint's best target, chosen after looking."""
        if len(self.runs[0].scores.targets) < 2:
            return None
        return _mean([max(map(value, run.scores.targets)) for run in self.runs])


@dataclass(frozen=True)
class Comparison:
    """Groups by (row, label), rows and labels in the order in which they are shown.

    notes: what a reader has to know, a sentence each.
    """

    rows: dict[str, Protocol]
    labels: list[str]
    groups: dict[tuple[str, str], Group]
    notes: list[str]

    def normalized(self, label: str) -> dict[str, list[float]]:
        """A method's scores by row, a value a seed, where reference scores exist."""
        return {
            row: group.values()
            for (row, of), group in self.groups.items()
            if of == label and group.estimate().normalized
        }


def compare(runs: Sequence[Run]) -> Comparison:
    """Group runs by dataset, protocol and method; nothing that differs is averaged."""
    names = labels(runs)
    rows, row_of = _rows(runs)
    collected: dict[tuple[str, str], list[Run]] = {}
    for run, label, row in zip(runs, names, row_of, strict=True):
        collected.setdefault((row, label), []).append(run)
    groups = {
        (row, label): Group(row, label, tuple(sorted(found, key=lambda run: run.seed)))
        for (row, label), found in sorted(collected.items())
    }
    return Comparison(rows, sorted(set(names)), groups, _notes(rows, groups))


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run's method: the policy, and in what it differs from its own kind.

    Keys count that differ within a dataset; those that only follow the dataset do not.
    """
    settings = [
        {key: v for key, v in flat(run.config).items() if not key.startswith(NOT_OF_THE_METHOD)}
        for run in runs
    ]
    varying: dict[str, set[str]] = {}
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, mine in zip(runs, settings, strict=True):
        kinds.setdefault((run.scores.dataset, mine["policy.name"]), []).append(mine)
    for (_, policy), alike in kinds.items():
        for key in set(itertools.chain(*alike)):
            if _varies(key, alike):
                varying.setdefault(policy, set()).add(key)
    return [_label(mine, varying.get(mine["policy.name"], set())) for mine in settings]


def _varies(key: str, alike: Sequence[dict[str, Any]]) -> bool:
    """Whether methods differ in it; what belongs to a conditioning counts among its own alone."""
    own = key.startswith("conditioning.") and key != ASKED
    found: dict[str, set[str]] = {}
    for mine in alike:
        found.setdefault(str(mine.get(ASKED)) if own else "", set()).add(repr(mine.get(key)))
    return any(len(values) > 1 for values in found.values())


def _label(settings: dict[str, Any], varying: set[str]) -> str:
    parts = [settings["policy.name"]]
    if settings.get(ASKED) == "none" and settings["policy.name"] not in NEVER_ASKED:
        parts.append("asked nothing")
    share = settings.get(BEST)
    if isinstance(share, int | float) and share < 1:
        parts.append(f"best {100 * share:g} %")
    least = settings.get(LEAST)
    if isinstance(least, int | float):
        parts.append(f"returns >= {least:g}")
    if settings.get(DELAYED) is True:
        parts.append("delayed reward")
    short = {key: _short(key) for key in varying - {BEST, LEAST, DELAYED, ASKED}}
    if settings.get(ASKED) != "none" and ASKED in varying:
        short[ASKED] = _short(ASKED)
    times = Counter(short.values())
    for key in sorted(short):
        parts.append(f"{short[key] if times[short[key]] == 1 else key} {settings.get(key)}")
    return " ".join(parts)


def _short(key: str) -> str:
    """`train.learning_rate` -> `learning_rate`, `policy.backbone.name` -> `backbone`."""
    return key.removesuffix(".name").rpartition(".")[2]


def _rows(runs: Sequence[Run]) -> tuple[dict[str, Protocol], list[str]]:
    """The rows by title, and each run's; one that asks for no return joins the row of the rest."""
    asked = [Protocol.of(run) for run in runs]
    for index, protocol in enumerate(asked):
        if protocol.targets is None:
            fitting = {other for other in asked if other.targets and _but_targets(other, protocol)}
            if len(fitting) == 1:
                asked[index] = fitting.pop()
    order = sorted(set(asked), key=lambda p: (p.task, p.dataset, str(p)))
    several = Counter(protocol.dataset for protocol in order)
    titles: dict[Protocol, str] = {}
    seen: Counter[str] = Counter()
    for protocol in order:
        seen[protocol.dataset] += 1
        number = f" [{seen[protocol.dataset]}]" if several[protocol.dataset] > 1 else ""
        titles[protocol] = f"{protocol.dataset}{number}"
    return {titles[p]: p for p in order}, [titles[p] for p in asked]


def _but_targets(one: Protocol, other: Protocol) -> bool:
    return one.differences(other) in ([], ["targets"]) and one.dataset == other.dataset


def _notes(rows: dict[str, Protocol], groups: dict[tuple[str, str], Group]) -> list[str]:
    notes = []
    for (one, a), (other, b) in itertools.combinations(rows.items(), 2):
        if a.dataset == b.dataset:
            differing = "; ".join(
                f"{key}: {getattr(a, key)} against {getattr(b, key)}" for key in a.differences(b)
            )
            notes.append(f"{one} and {other} are kept apart, as protocols differ: {differing}")
    for group in groups.values():
        seeds = Counter(run.seed for run in group.runs)
        for seed in (seed for seed, count in seeds.items() if count > 1):
            notes.append(
                f"{group.row}, {group.label}: {seeds[seed]} runs share seed {seed}; they are not"
                " independent, so the interval is too narrow"
            )
        for run in (run for run in group.runs if run.former_targets):
            former = "; ".join(", ".join(map(target_text, t)) for t in run.former_targets)
            notes.append(
                f"{group.row}, {group.label}, seed {run.seed}: the last checkpoint had been rolled"
                f" out at other targets ({former}), so those shown were chosen after training"
            )
        lengths = {len(run.evaluations) for run in group.runs}
        if len(lengths) > 1:
            notes.append(
                f"{group.row}, {group.label}: runs have {min(lengths)} to {max(lengths)}"
                " evaluations during training"
            )
        commits = {run.commit or "unknown" for run in group.runs}
        if len(commits) > 1:
            notes.append(
                f"{group.row}, {group.label}: made by several versions of the code:"
                f" {', '.join(sorted(commits))}"
            )
    return notes


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def score_curve(run: Run) -> list[tuple[int, float]]:
    """The score at the first target against updates."""
    return [(record["step"], value(record["targets"][0])) for record in run.evaluations]


def loss_curve(run: Run) -> list[tuple[int, float]]:
    """The training loss against updates, where it was logged."""
    records = [record for record in run.metrics if record.get("loss") is not None]
    return [(record["step"], record["loss"]) for record in records]
