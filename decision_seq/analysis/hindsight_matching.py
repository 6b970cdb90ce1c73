"""Hindsight matching: distributions of a feature in target episodes and in a policy's rollouts.

Targets are episodes of the data; they are held-out ones where the run held some out. At step t of
a rollout the policy is conditioned on the label of step t of the target (the teacher's schedule).
The score is the earth mover's distance between the feature's distribution in the rollouts and in
the target (Furuta et al., 2022; frt03/generalized_dt eval_cdt.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.evaluation import Evaluation, Opened, open_checkpoint
from decision_seq.evaluation.rollout import EpisodeResult
from decision_seq.reading import Unreadable, parse_json, read_text
from decision_seq.report.statistics import mean_interval
from decision_seq.runs.resolve import config_of, open_data
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.sequences.conditioning.features import (
    REWARD,
    VELOCITY,
    Feature,
    Featured,
    feature_name,
)
from decision_seq.sequences.conditioning.histogram import Histogram, check_shares, wasserstein
from decision_seq.sequences.conditioning.outcome import Outcome
from decision_seq.sequences.conditioning.schedule import Schedule
from decision_seq.sequences.selection import held_out
from decision_seq.types import Episode, Reporter, UserError

MOST = 1_000  # largest number of targets
SCHEDULE, CONSTANT, NONE = "schedule", "constant", "none"  # ways to condition a policy


@dataclass(frozen=True)
class Target:
    """Target of matching: an episode of the data, parts of several, or only a distribution."""

    name: str
    """Name shown in the results."""
    shares: np.ndarray
    """Distribution of the feature over the whole target, [bins]."""
    index: int | None = None
    """Number of the episode in the store; None for other targets."""
    parts: tuple[tuple[Episode, slice], ...] = ()
    """Episodes and the steps of each that make up the target; empty for only a distribution."""

    def joined(self, column: Callable[[Episode], np.ndarray]) -> np.ndarray:
        """A column [T, ...] of the episodes, their parts concatenated."""
        return np.concatenate([column(episode)[steps] for episode, steps in self.parts])


def match_checkpoint(
    path: Path,
    targets: int = 5,
    feature: Feature | None = None,
    histogram: Path | None = None,
    mixture: tuple[int, int] | None = None,
    splice: tuple[int, int] | None = None,
    dataset: str | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """Roll out for every target and compare -> plain values, for `plot_matching`.

    targets: number of episodes, evenly spaced when sorted by their mean feature; a single one is
        the median.
    feature: None for the conditioning's, else the velocity along x where known, else the reward.
    histogram: file with a JSON list of shares, to match in place of episodes.
    mixture: numbers of two of the targets; their mean distribution is the target of every step.
    splice: numbers of two of the targets; the first half of one is followed, then the second half
        of the other.
    asked: keys of `EvaluationConfig`, None for the run's.

    histogram and mixture need a policy conditioned on histograms or on nothing.
    """
    reporter = reporter or Reporter()
    require(1 <= targets <= MOST, f"--targets {targets} must be at least 1, and {MOST:,} at most")
    given = sum(one is not None for one in (histogram, mixture, splice))
    require(given <= 1, "give one of --histogram, --mixture and --splice")
    opened = open_checkpoint(path, device, reporter=reporter, **asked)
    config = config_of(opened.loaded.config)
    store = open_data(replace(config, dataset=dataset or config.dataset), reporter)
    known = opened.loaded.facts.checksum
    require(
        known in (None, store.checksum),
        f"{store.name}: these are not the data that {path} was trained on, so which episodes were"
        " held out is not known",
    )
    measure = measure_of(opened.evaluation.conditioning, feature, store)
    notes = list(opened.notes)
    if histogram is not None:
        wanted = [_read(histogram, measure)]
    else:
        wanted = choose(store, measure, config.held_out, targets)
        if config.held_out == 0:
            notes.append("the run held no episode out: its targets were trained on")
    if mixture is not None:
        wanted = [_mixed(*_pair(wanted, mixture, "--mixture"))]
    if splice is not None:
        wanted = [_spliced(measure, *_pair(wanted, splice, "--splice"))]
    how, results = roll_out(opened, wanted, measure, reporter)
    return {
        "checkpoint": str(opened.loaded.path),
        "dataset": store.name,
        "source": store.source,
        "env_id": opened.evaluation.env_id,
        "policy": config.policy.get_choice_name(type(config.policy)),
        "conditioning": config.conditioning.get_choice_name(type(config.conditioning)),
        "condition": how,
        "feature": feature_name(measure.feature, store.header["family"]),
        "edges": measure.edges.tolist(),
        "episodes": opened.evaluation.episodes,
        "seed": opened.evaluation.seed,
        "notes": notes,
        **compare(wanted, results, measure, measure.shares(measure.of_store(store))),
    }


def measure_of(
    conditioning: Conditioning, feature: Feature | None, store: EpisodeStore
) -> Histogram:
    """The bins of the compared distributions: the conditioning's own, where it has bins."""
    if feature is None:
        facts = FACTS.get(store.header["family"] or "")
        feature = REWARD if facts is None or facts.velocity is None else VELOCITY
        if isinstance(conditioning, Featured):
            feature = conditioning.feature
    found = Featured(feature).found_in(store).feature
    if isinstance(conditioning, Histogram) and conditioning.feature == found:
        return conditioning
    return Histogram(found).resolved(store)


def choose(store: EpisodeStore, measure: Histogram, held: float, count: int) -> list[Target]:
    """Choose held-out episodes (of all, where none is held out), evenly spaced by mean feature."""
    means = np.add.reduceat(measure.of_store(store), store.offsets[:-1]) / store.lengths
    candidates = np.arange(store.num_episodes)
    if held:
        candidates = np.flatnonzero(held_out(store.num_episodes, held))
    require(
        len(candidates) >= count,
        f"--targets {count}: {store.name} has {len(candidates):,} episodes"
        f"{' that were held out' if held else ''}; ask for so many at most",
    )
    ranked = candidates[np.argsort(means[candidates], kind="stable")]
    middle = (len(ranked) - 1) / 2
    places = np.linspace(0, len(ranked) - 1, count) if count > 1 else np.array([middle])
    chosen = []
    for index in map(int, ranked[places.astype(np.int64)]):
        episode = store.episode(index)
        shares = measure.shares(measure.of_episode(episode))
        chosen.append(Target(f"episode {index}", shares, index, ((episode, slice(None)),)))
    return chosen


def roll_out(
    opened: Opened, targets: Sequence[Target], measure: Histogram, reporter: Reporter | None = None
) -> tuple[str, list[list[EpisodeResult]]]:
    """Roll out for every target -> the way of conditioning, and the episodes by target.

    A policy without a condition is rolled out once and compared with every target. UserError where
    a target is only a distribution and the policy is not conditioned on histograms.
    """
    policy, evaluation = opened.loaded.policy, replace(opened.evaluation, targets=())
    conditioning = evaluation.conditioning
    if policy.spec.condition_size == 0 or isinstance(conditioning, Outcome):
        how = NONE
    elif all(target.parts for target in targets):
        how = SCHEDULE
        labelled = partial(policy.relabel, conditioning)
        labels = [target.joined(labelled) for target in targets]
        numbers = tuple(map(float, range(len(labels))))
        evaluation = replace(evaluation, conditioning=Schedule(labels), targets=numbers)
    else:
        how = CONSTANT
        require(
            isinstance(conditioning, Histogram) and conditioning == measure,
            f"{opened.loaded.path} is not conditioned on histograms of the feature: give no"
            " --histogram and no --mixture",
        )
        (target,) = targets
        shares = tuple(target.shares.tolist())
        evaluation = replace(evaluation, conditioning=replace(measure, target=shares))
    groups = _grouped(replace(evaluation, observer=measure.of_transition), opened, reporter)
    return how, groups * len(targets) if how == NONE else groups


def _grouped(
    evaluation: Evaluation, opened: Opened, reporter: Reporter | None
) -> list[list[EpisodeResult]]:
    """Roll out and return the episodes of every target, in order."""
    found = evaluation.results(opened.loaded.policy, reporter=reporter)
    ordered, size = sorted(found, key=lambda episode: episode.index), evaluation.episodes
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]


def compare(
    targets: Sequence[Target],
    results: Sequence[Sequence[EpisodeResult]],
    measure: Histogram,
    data: np.ndarray,
) -> dict[str, Any]:
    """Distances of every target, and their mean with its 95 % interval over the targets.

    A target's distance is between its distribution and the one pooled over its rollouts. The mean
    of the single rollouts' distances is returned too, with an interval over them. data: the shares
    [bins] of all data; their distance is the baseline of a policy that imitates the average.
    """
    found = []
    for target, episodes in zip(targets, results, strict=True):
        traces = [episode.trace for episode in episodes if episode.trace is not None]
        pooled = np.concatenate(traces)
        shares = measure.shares(pooled)
        own = [_distance(measure, measure.shares(trace), target.shares) for trace in traces]
        lived = target.joined(measure.of_episode) if target.parts else None
        found.append(
            {
                "name": target.name,
                "episode": target.index,
                "steps": None if lived is None else len(lived),
                "mean": None if lived is None else float(lived.mean()),
                "shares": target.shares.tolist(),
                "obtained": {
                    "mean": float(pooled.mean()),
                    "shares": shares.tolist(),
                    "returns": [episode.total for episode in episodes],
                    "lengths": [episode.length for episode in episodes],
                },
                "distance": _distance(measure, shares, target.shares),
                "data_distance": _distance(measure, data, target.shares),
                "episode_distances": own,
                "episode_distance": float(np.mean(own)),
                "episode_interval_95": _interval(own),
            }
        )
    distances = [target["distance"] for target in found]
    return {
        "distance": float(np.mean(distances)),
        "interval_95": _interval(distances),
        "targets": found,
    }


def _distance(measure: Histogram, first: np.ndarray, second: np.ndarray) -> float:
    return wasserstein(first, second, float(measure.edges[1] - measure.edges[0]))


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval, cut at 0 since distances are not negative."""
    low, high = mean_interval(values)
    return (max(low, 0.0), high) if len(values) > 1 else None


def _pair(targets: Sequence[Target], numbers: tuple[int, int], flag: str) -> list[Target]:
    inside = all(0 <= number < len(targets) for number in numbers)
    named = ",".join(map(str, numbers))
    require(inside, f"{flag} {named}: targets are numbered from 0 to {len(targets) - 1}")
    return [targets[number] for number in numbers]


def _mixed(first: Target, second: Target) -> Target:
    """Target whose distribution is the mean of two targets'."""
    return Target(f"{first.name} + {second.name}", (first.shares + second.shares) / 2)


def _spliced(measure: Histogram, first: Target, second: Target) -> Target:
    """Target that follows half of one episode and then half of another, each with its own labels.

    Labels of the joined trajectory would be mixtures during its first half. No episode of the data
    has such labels, and a policy then does something between the two.
    """
    (before, _), (after, _) = first.parts[0], second.parts[0]
    middle = min(len(before), len(after)) // 2
    parts = ((before, slice(middle)), (after, slice(middle, None)))
    spliced = Target(f"{first.name}, then {second.name}", first.shares, parts=parts)
    return replace(spliced, shares=measure.shares(spliced.joined(measure.of_episode)))


def _read(path: Path, measure: Histogram) -> Target:
    """Read a distribution; UserError when it is invalid or has another number of bins."""
    try:
        shares = tuple(float(number) for number in parse_json(read_text(path)))
    except Unreadable as error:
        raise UserError(f"--histogram {error}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"--histogram {path} holds no JSON list of numbers") from error
    check_shares(shares, measure.bins, f"--histogram {path}")
    return Target(path.name, np.array(shares) / sum(shares))
