"""Does a policy do what a target trajectory did? Distributions of a feature, asked and obtained.

Targets are episodes of the data, held out of training where the run held some out. A policy is
shown at step t what its conditioning labels step t of the target with (the teacher's schedule), and
is judged by the earth mover's distance between the feature's distribution in what it does and that
in the target (Furuta et al., 2022; frt03/generalized_dt eval_cdt.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning
from decision_seq.data.features import REWARD, VELOCITY, Feature, Featured, feature_name
from decision_seq.data.histogram import Histogram, check_shares, wasserstein
from decision_seq.data.outcome import Outcome
from decision_seq.data.schedule import Schedule
from decision_seq.data.selection import held_out
from decision_seq.data.store import EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.evaluate import Evaluation, Opened, open_checkpoint
from decision_seq.problem import config_of, open_data
from decision_seq.rollout import Obtained
from decision_seq.statistics import mean_interval
from decision_seq.types import Episode, Reporter, UserError

MOST = 1_000  # targets
SCHEDULE, CONSTANT, NONE = "schedule", "constant", "none"  # how a policy is conditioned


@dataclass(frozen=True)
class Target:
    """What is to be matched: an episode of the data, parts of several, or a distribution alone."""

    name: str
    shares: np.ndarray  # [bins] of the feature, over the whole of it
    index: int | None = None  # of the episode
    parts: tuple[tuple[Episode, slice], ...] = ()  # what is followed: these steps of each

    def joined(self, column: Callable[[Episode], np.ndarray]) -> np.ndarray:
        """A column [T, ...] of the episodes, the parts of each one behind the other."""
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

    targets: so many episodes, evenly spaced in the order of their mean feature from the least to
    the greatest; a single one is the median. feature: null for the conditioning's, or else the
    velocity along x where it is known, or else the reward. In their place: splice, two of the
    targets by number, followed through the first half of one and then the second of the other; or,
    for a policy conditioned on histograms or on nothing: histogram, a file with a JSON list of
    shares; mixture, two of the targets, half and half from the first step to the last.
    asked: keys of `EvaluationConfig`, None for the run's.
    """
    reporter = reporter or Reporter()
    require(1 <= targets <= MOST, f"--targets {targets} must be at least 1, and {MOST:,} at most")
    given = sum(one is not None for one in (histogram, mixture, splice))
    require(given <= 1, "give one of --histogram, --mixture and --splice")
    opened = open_checkpoint(path, device, **asked)
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
    how, obtained = roll_out(opened, wanted, measure, reporter)
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
        **compare(wanted, obtained, measure, measure.shares(measure.of_store(store))),
    }


def measure_of(
    conditioning: Conditioning, feature: Feature | None, store: EpisodeStore
) -> Histogram:
    """The bins in which distributions are compared: the conditioning's own, where it has some."""
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
    """So many held-out episodes (of all, where none is), spaced evenly by their mean feature."""
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
) -> tuple[str, list[list[Obtained]]]:
    """How the policy was conditioned, and what it did for every target.

    A policy that no target conditions is rolled out once, and compared with them all. UserError
    where a distribution alone is to be matched by a policy that takes something else.
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
) -> list[list[Obtained]]:
    """The episodes of every group, in order."""
    found = evaluation.obtained(opened.loaded.policy, reporter=reporter)
    ordered, size = sorted(found, key=lambda episode: episode.index), evaluation.episodes
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]


def compare(
    targets: Sequence[Target],
    obtained: Sequence[Sequence[Obtained]],
    measure: Histogram,
    data: np.ndarray,
) -> dict[str, Any]:
    """Distances of every target, and their mean with its 95 % interval over the targets.

    A target's distance is that of its distribution to the one pooled over its episodes; beside it
    stands the mean of its episodes' own, with an interval over them. data: the shares [bins] of
    the data as a whole, whose distance is what a policy earns that does as the data on average did.
    """
    found = []
    for target, episodes in zip(targets, obtained, strict=True):
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
    """Student's, cut at 0, below which no distance is."""
    low, high = mean_interval(values)
    return (max(low, 0.0), high) if len(values) > 1 else None


def _pair(targets: Sequence[Target], numbers: tuple[int, int], flag: str) -> list[Target]:
    inside = all(0 <= number < len(targets) for number in numbers)
    named = ",".join(map(str, numbers))
    require(inside, f"{flag} {named}: targets are numbered from 0 to {len(targets) - 1}")
    return [targets[number] for number in numbers]


def _mixed(first: Target, second: Target) -> Target:
    """Two modes, half of the steps each."""
    return Target(f"{first.name} + {second.name}", (first.shares + second.shares) / 2)


def _spliced(measure: Histogram, first: Target, second: Target) -> Target:
    """Two modes, one after the other: each half is asked for with its own episode's labels.

    The labels of the joined trajectory would be mixtures while its first half lasts, as no episode
    of the data has them, and a policy does something between the two.
    """
    (before, _), (behind, _) = first.parts[0], second.parts[0]
    middle = min(len(before), len(behind)) // 2
    parts = ((before, slice(middle)), (behind, slice(middle, None)))
    spliced = Target(f"{first.name}, then {second.name}", first.shares, parts=parts)
    return replace(spliced, shares=measure.shares(spliced.joined(measure.of_episode)))


def _read(path: Path, measure: Histogram) -> Target:
    """A distribution from a file; UserError when it is none, or not of the measure's bins."""
    try:
        shares = tuple(float(number) for number in json.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"--histogram {path}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"--histogram {path} holds no JSON list of numbers") from error
    check_shares(shares, measure.bins, f"--histogram {path}")
    return Target(path.name, np.array(shares) / sum(shares))
