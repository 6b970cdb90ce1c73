"""Grouping of runs: which may be averaged, their estimates, and the notes a reader needs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from decision_seq.config import flat
from decision_seq.datasets.d4rl import reader as d4rl
from decision_seq.formatting import target_text
from decision_seq.methods import method_label, own_name
from decision_seq.report.published import task_name
from decision_seq.report.runs import FinishedRun, value
from decision_seq.report.statistics import Interval, mean_interval

# Keys that do not describe a method: the data and the protocol make the row, the seed makes the
# replicate, and the others set how a run is executed, logged and saved.
NOT_OF_THE_METHOD = (
    *("dataset", "seed", "method", "collection.", "evaluation."),
    *("train.log_every", "train.checkpoint_every", "train.keep_", "train.track"),
    *("train.peak_tflops", "train.data_on_device", "train.parallel", "train.accumulation"),
    *("train.checkpoint_activations", "train.compile", "train.cuda_graph"),
)
# Settings with a phrase of their own in a label: the share of the best episodes or the least return
# trained on, and rewards delivered as one sum.
BEST, LEAST, DELAYED = "best_fraction", "least_return", "delayed"
ASKED = "conditioning.name"


@dataclass(frozen=True)
class Protocol:
    """The protocol of a row: scores share a row only if all of its fields are equal."""

    dataset: str
    """Name of the dataset."""
    env_id: str
    """Gymnasium id of the environment."""
    acting: str
    """Precision and temperature of the rollouts; see `FinishedRun.acting`."""
    source: str
    """Description of the data's source."""
    size: str
    """Numbers of episodes and transitions in the data."""
    episodes: int
    """Episodes rolled out for each target."""
    seed: int
    """Seed of the first episode; episode i starts from seed + i."""
    targets: tuple[float, ...] | None
    """Target returns, raw; None for a policy that takes no target."""
    checkpoint: str = "last"
    """`last`, or the name of an earlier checkpoint, which only later evaluations have."""

    @classmethod
    def of(cls, run: FinishedRun) -> Protocol:
        scores, first = run.scores, run.headline
        targets = tuple(target for target in run.targets if target is not None) or None
        return cls(
            scores.dataset,
            scores.env_id,
            run.acting,
            scores.source,
            run.size,
            first.episodes,
            first.seed,
            targets,
            run.checkpoint,
        )

    @property
    def comparable(self) -> bool:
        """Whether published numbers may be compared with this row; if not they are context.

        Published numbers are of D4RL's newest data. Older versions are other data (locomotion's:
        kzl/decision-transformer#42).
        """
        return d4rl.own_dataset(self.source) == d4rl.versioned(self.task) is not None

    @property
    def task(self) -> str:
        return task_name(self.dataset)

    def differences(self, other: Protocol) -> list[str]:
        return [
            key
            for key in (f.name for f in fields(self) if f.name != "dataset")
            if getattr(self, key) != getattr(other, key)
        ]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval by Student's t."""

    mean: float
    """Mean of the normalized scores x100, or of the raw returns."""
    interval: Interval | None
    """Ends of the 95 % interval; None for a single value."""
    over: str
    """Unit of the sample: `seeds`, or `episodes` of one seed."""
    count: int
    """Number of seeds or episodes."""
    normalized: bool
    """Whether values are normalized scores; if not they are raw returns."""


def counted(estimate: Estimate) -> str:
    """The sample of an estimate as text: `5 seeds`, `50 episodes of 1 seed`."""
    if estimate.over == "seeds":
        return f"{estimate.count} seeds"
    return f"{estimate.count} episode{'s' if estimate.count > 1 else ''} of 1 seed"


@dataclass(frozen=True)
class Group:
    """Runs of one method under one protocol, which differ only in their seed."""

    row: str
    label: str
    runs: tuple[FinishedRun, ...]

    def values(self, index: int = 0) -> list[float]:
        """Each run's score of its last checkpoint at target number `index`."""
        return [value(run.scores.targets[index]) for run in self.runs]

    def estimate(self, index: int = 0) -> Estimate:
        """The mean over seeds where there are several, else over the episodes of the one seed."""
        first = self.runs[0].scores.targets[index]
        normalized = first.normalized_score is not None
        if len(self.runs) == 1:
            return Estimate(value(first), first.interval_95, "episodes", first.episodes, normalized)
        values = self.values(index)
        mean = sum(values) / len(values)
        return Estimate(mean, mean_interval(values), "seeds", len(values), normalized)

    @property
    def evaluations(self) -> int:
        """The smallest number of evaluations of a run in the group."""
        return min(len(run.evaluations) for run in self.runs)

    def best_of_evaluations(self) -> float | None:
        """Mean over seeds of each seed's best evaluation; it must never be quoted as a result."""
        if self.evaluations < 2:
            return None
        return _mean(
            [max(value(record["targets"][0]) for record in run.evaluations) for run in self.runs]
        )

    def best_of_targets(self) -> float | None:
        """Mean over seeds of the last checkpoint's best target, chosen after the rollouts."""
        if len(self.runs[0].scores.targets) < 2:
            return None
        return _mean([max(map(value, run.scores.targets)) for run in self.runs])


@dataclass(frozen=True)
class Comparison:
    """A table of groups: a row for each protocol, a column for each method."""

    rows: dict[str, Protocol]
    """Protocols by row title, in display order."""
    labels: list[str]
    """Labels of the methods, in display order."""
    groups: dict[tuple[str, str], Group]
    """Groups by (row, label)."""
    notes: list[str]
    """Facts that a reader needs, one sentence each."""

    def normalized(self, label: str) -> dict[str, list[float]]:
        """A method's scores by row, one value per seed, where reference scores exist."""
        return {
            row: group.values()
            for (row, of), group in self.groups.items()
            if of == label and group.estimate().normalized
        }


def compare(runs: Sequence[FinishedRun]) -> Comparison:
    """Group runs by dataset, protocol and method; runs that differ in these are not averaged."""
    return grouped(runs, labels(runs))


def grouped(runs: Sequence[FinishedRun], names: Sequence[str], said: str = "") -> Comparison:
    """As `compare`, with the names of the runs' methods given; said: a mark of the rows' titles."""
    rows, row_of = _rows(runs, said)
    collected: dict[tuple[str, str], list[FinishedRun]] = {}
    for run, label, row in zip(runs, names, row_of, strict=True):
        collected.setdefault((row, label), []).append(run)
    groups = {
        (row, label): Group(row, label, tuple(sorted(found, key=lambda run: run.seed)))
        for (row, label), found in sorted(collected.items())
    }
    return Comparison(rows, sorted(set(names)), groups, _notes(rows, groups))


def labels(runs: Sequence[FinishedRun]) -> list[str]:
    """A name for each run's method: its own, or its label and the settings that vary among runs.

    A key counts only if it varies within one dataset, not if it varies from dataset to dataset.
    """
    described = _described(runs)
    own: dict[str, set[str | None]] = {}
    for run, text in zip(runs, described, strict=True):
        own.setdefault(text, set()).add(own_name(run.config))
    times = Counter(name for names in own.values() for name in names)
    described_as = {text.lower() for text in own}

    def named(text: str) -> str:
        """The own name, where all runs of the method have it and no other method does."""
        name = next(iter(own[text])) if len(own[text]) == 1 else None
        return text if name is None or times[name] > 1 or name.lower() in described_as else name

    return [named(text) for text in described]


def _described(runs: Sequence[FinishedRun]) -> list[str]:
    """The label of each run's method, and the settings that vary among the runs of that label."""
    settings = [
        {key: v for key, v in flat(run.config).items() if not key.startswith(NOT_OF_THE_METHOD)}
        for run in runs
    ]
    varying: dict[str, set[str]] = {}
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    methods = [method_label(run.config) for run in runs]
    for run, method, mine in zip(runs, methods, settings, strict=True):
        kinds.setdefault((run.scores.dataset, method), []).append(mine)
    for (_, method), alike in kinds.items():
        for key in set(itertools.chain(*alike)):
            if _varies(key, alike):
                varying.setdefault(method, set()).add(key)
    return [
        _label(method, mine, varying.get(method, set()))
        for method, mine in zip(methods, settings, strict=True)
    ]


def _varies(key: str, alike: Sequence[dict[str, Any]]) -> bool:
    """Whether a key's values differ; keys of a conditioning are compared within it alone."""
    own = key.startswith("conditioning.") and key != ASKED
    found: dict[str, set[str]] = {}
    for mine in alike:
        found.setdefault(str(mine.get(ASKED)) if own else "", set()).add(repr(mine.get(key)))
    return any(len(values) > 1 for values in found.values())


def _label(method: str, settings: dict[str, Any], varying: set[str]) -> str:
    parts = [method]
    share = settings.get(BEST)
    if isinstance(share, int | float) and share < 1:
        parts.append(f"best {100 * share:g} %")
    least = settings.get(LEAST)
    if isinstance(least, int | float):
        parts.append(f"returns >= {least:g}")
    if settings.get(DELAYED) is True:
        parts.append("delayed reward")
    short = {key: _short(key) for key in varying - {BEST, LEAST, DELAYED}}
    times = Counter(short.values())
    for key in sorted(short):
        parts.append(f"{short[key] if times[short[key]] == 1 else key} {settings.get(key)}")
    return " ".join(parts)


def _short(key: str) -> str:
    """`train.learning_rate` -> `learning_rate`, `policy.backbone.name` -> `backbone`."""
    return key.removesuffix(".name").rpartition(".")[2]


def _rows(runs: Sequence[FinishedRun], said: str) -> tuple[dict[str, Protocol], list[str]]:
    """The rows by title, and each run's title.

    said: comes after the dataset's name. A run without targets joins the row that equals it but for
    the targets, if there is just one.
    """
    protocols = [Protocol.of(run) for run in runs]
    for index, protocol in enumerate(protocols):
        if protocol.targets is None:
            fitting = {p for p in protocols if p.targets and _differ_in_targets(p, protocol)}
            if len(fitting) == 1:
                protocols[index] = fitting.pop()
    order = sorted(set(protocols), key=lambda p: (p.task, p.dataset, str(p)))
    several = Counter(protocol.dataset for protocol in order)
    titles: dict[Protocol, str] = {}
    seen: Counter[str] = Counter()
    for protocol in order:
        seen[protocol.dataset] += 1
        number = f" [{seen[protocol.dataset]}]" if several[protocol.dataset] > 1 else ""
        titles[protocol] = f"{protocol.dataset}{said}{number}"
    return {titles[p]: p for p in order}, [titles[p] for p in protocols]


def _differ_in_targets(one: Protocol, other: Protocol) -> bool:
    return one.differences(other) in ([], ["targets"]) and one.dataset == other.dataset


def _notes(rows: dict[str, Protocol], groups: dict[tuple[str, str], Group]) -> list[str]:
    notes = []
    for (one, a), (other, b) in itertools.combinations(rows.items(), 2):
        if a.dataset == b.dataset:
            differing = "; ".join(
                f"{key}: {getattr(a, key)} against {getattr(b, key)}" for key in a.differences(b)
            )
            notes.append(f"{one} and {other} are separate, as protocols differ: {differing}")
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


def score_curve(run: FinishedRun) -> list[tuple[int, float]]:
    """(Updates, score at the first target) of every evaluation, whatever its episodes."""
    return [(record["step"], value(record["targets"][0])) for record in run.curve]


def loss_curve(run: FinishedRun) -> list[tuple[int, float]]:
    """(Updates, training loss) of every record that has a loss."""
    records = [record for record in run.metrics if record.get("loss") is not None]
    return [(record["step"], record["loss"]) for record in records]
