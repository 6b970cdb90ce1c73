"""Offline measures of a policy: its actions on held-out episodes, without an environment.

Each step is presented as in a rollout: it is the newest of its context of the last K steps, and it
is conditioned on its hindsight label. The measures compare the policy's actions with those of the
data. They show how well the data are modelled and do not predict the return of a rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from decision_seq.checkpoint import Loaded
from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.escaping import terminal
from decision_seq.evaluation.episode_rows import device_of
from decision_seq.formatting import interval_text, number_text
from decision_seq.policies.base import Policy
from decision_seq.report import table
from decision_seq.report.statistics import mean_interval
from decision_seq.sequences.conditioning import Conditioning, label
from decision_seq.sequences.selection import held_out
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Batch, Spec

MAX_STEPS = 10_000  # measured steps, drawn among all held-out ones where there are more
WAVE = 256  # steps measured at once
TIED = ", tied"  # ends the name of a group of several quartiles
_STREAM = 0x0FF1  # seed for drawing those steps, the same ones for every policy

# Measures of a step, by the kind of its action.
METRICS = {
    "continuous": ("mean_squared_error", "mean_absolute_error"),
    "discrete": ("accuracy", "log_likelihood"),
}


@dataclass(frozen=True)
class ClusteredMean:
    """A mean over steps with its 95 % interval, clustered by episode."""

    mean: float
    """Mean over the steps."""
    interval_95: tuple[float, float] | None
    """Ends of the 95 % interval; None for a single episode."""


@dataclass(frozen=True)
class OfflineGroup:
    """Measures of held-out episodes of similar return."""

    name: str
    """Name of the group: `all`, `return quartile 1`, or `return quartiles 1 to 3, tied`."""
    returns: tuple[float, float]
    """The lowest and the highest return."""
    episodes: int
    """Number of episodes."""
    steps: int
    """Number of measured steps."""
    metrics: dict[str, ClusteredMean]
    """Measures by name, see `METRICS`."""


@dataclass(frozen=True)
class OfflineScores:
    """Measures of all held-out episodes, and of each quartile of their returns."""

    dataset: str
    """Name of the dataset."""
    source: str
    """Origin of the data."""
    checkpoint: str
    """Path of the checkpoint."""
    held_out_episodes: int
    """Number of held-out episodes."""
    held_out_steps: int
    """Number of held-out steps, measured or not."""
    groups: list[OfflineGroup]
    """All episodes first, then the quartiles."""


def offline_metrics(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    store: EpisodeStore,
    episodes: np.ndarray,
    max_steps: int = MAX_STEPS,
) -> list[OfflineGroup]:
    """Measure a policy on the episodes of the mask [E]: all of them, then by quartile of return.

    max_steps: where there are more, this many steps are drawn, always the same ones. The measures
    of continuous actions are the squared and the absolute error, means over the dimensions. Those
    of discrete actions are the share of steps whose action is the policy's choice, and the
    log-likelihood, the negative of the loss `action`.
    """
    chosen = np.flatnonzero(episodes)
    require(len(chosen) > 0, "no episode is held out; train with --held_out 0.1")
    rows = np.flatnonzero(np.repeat(episodes, store.lengths))
    if len(rows) > max_steps:
        rows = np.sort(np.random.default_rng(_STREAM).choice(rows, max_steps, replace=False))
    of_step = np.searchsorted(store.offsets, rows, side="right") - 1  # the episode of each
    if policy.memory == "episode":  # a rollout remembers more than the newest steps
        context_length = int(store.lengths[chosen].max())
    gatherer = WindowGatherer(
        store,
        label(store, conditioning),
        context_length,
        policy.spec.max_timestep,
        policy.futures,
    )
    measured = _measured(policy, gatherer, rows, store.offsets[of_step])
    quartile = np.full(store.num_episodes, -1)
    edges = np.quantile(store.returns[chosen], (0.25, 0.5, 0.75, 1.0))
    quartile[chosen] = np.searchsorted(edges[:3], store.returns[chosen], side="left")
    named = {"all": quartile >= 0} | {
        name: quartile == number for number, name in _quartile_names(edges)
    }
    return [
        _group(name, store, of_step[mask[of_step]], measured[mask[of_step]], policy.spec)
        for name, mask in named.items()
        if mask[of_step].any()
    ]


def _quartile_names(edges: np.ndarray) -> Iterator[tuple[int, str]]:
    """Number and name of each group of quartiles of the return. edges: their upper ends, [4].

    Episodes of equal return stay together, so quartiles that end at the same return are one group.
    """
    first = 0
    while first < len(edges):
        last = int(np.searchsorted(edges, edges[first], side="right")) - 1
        if last > first:
            yield first, f"return quartiles {first + 1} to {last + 1}{TIED}"
        else:
            yield first, f"return quartile {first + 1}"
        first = last + 1


@torch.inference_mode()
def _measured(
    policy: Policy, gatherer: WindowGatherer, rows: np.ndarray, firsts: np.ndarray
) -> np.ndarray:
    """The two measures of every step, [M, 2]. firsts: the first row of each step's episode."""
    policy.eval()
    device = device_of(policy)
    context_length, measured = len(gatherer.steps), []
    for at in range(0, len(rows), WAVE):
        newest = rows[at : at + WAVE]
        starts = np.maximum(newest - context_length + 1, firsts[at : at + WAVE])
        windows = _in_hindsight(policy, gatherer.gather(starts), device)
        lengths = newest - starts + 1
        taken = windows.actions[np.arange(len(newest)), lengths - 1]
        context = _context(windows, lengths)
        acted = policy.act(context.tensors(device))[0].cpu().numpy()
        if policy.spec.action_kind == "continuous":
            error = (acted.astype(np.float64) - taken).reshape(len(newest), -1)
            measured.append(np.stack([np.square(error).mean(1), np.abs(error).mean(1)], 1))
        else:
            losses = _newest_losses(policy, context, taken, device)
            measured.append(np.stack([acted == taken, -losses], 1))
    return np.concatenate(measured)


def _in_hindsight(policy: Policy, windows: Batch, device: torch.device) -> Batch:
    """The windows with the conditions that the policy was trained on."""
    conditions = policy.hindsight(windows.tensors(device)).conditions.cpu().numpy()
    return replace(windows, conditions=conditions, futures=None, futures_mask=None)


def _context(windows: Batch, lengths: np.ndarray) -> Batch:
    """The windows as in a rollout at step `lengths - 1`: all later values are set to zero."""
    steps = np.arange(windows.mask.shape[1])
    here, before = steps < lengths[:, None], steps < lengths[:, None] - 1
    before_it = windows.observations.shape[1] - len(steps)  # frames that precede the window
    seen = np.arange(before_it + len(steps)) < lengths[:, None] + before_it
    names = {"observations": seen, "conditions": here, "timesteps": here}
    names |= {"actions": before, "rewards": before}

    def cut(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
        wide = mask.reshape(*mask.shape, *[1] * (array.ndim - 2))
        return np.where(wide, array, np.zeros((), array.dtype))

    shown = {name: cut(getattr(windows, name), m) for name, m in names.items()}
    return replace(windows, mask=here, terminated=None, **shown)


def _newest_losses(
    policy: Policy, context: Batch, taken: np.ndarray, device: torch.device
) -> np.ndarray:
    """The loss `action` of the newest step of each row, with `taken` as its action, [M]."""
    at = np.arange(len(taken)), context.lengths - 1
    actions = context.actions.copy()
    actions[at] = taken
    rng = torch.Generator(device).manual_seed(0)
    losses = policy(replace(context, actions=actions).tensors(device), rng).losses["action"]
    return losses.cpu().numpy()[at].astype(np.float64)


def _group(
    name: str, store: EpisodeStore, of_step: np.ndarray, measured: np.ndarray, spec: Spec
) -> OfflineGroup:
    """Summarize a group of steps. of_step: [M], the episode of each; measured: [M, 2]."""
    found, at, counts = np.unique(of_step, return_inverse=True, return_counts=True)
    metrics = {
        metric: _estimate(np.bincount(at, column), counts)
        for metric, column in zip(METRICS[spec.action_kind], measured.T, strict=True)
    }
    returns = store.returns[found]
    low_high = float(returns.min()), float(returns.max())
    return OfflineGroup(name, low_high, len(found), len(of_step), metrics)


def _estimate(sums: np.ndarray, counts: np.ndarray) -> ClusteredMean:
    """The mean over steps, from each episode's sum [E] and number of steps [E].

    The mean is a ratio of two means over episodes. Its interval is that of its linearisation, whose
    terms average to the ratio (Cochran, Sampling Techniques, chapter 6). Episodes are the units,
    because the steps of an episode are not independent draws.
    """
    mean = float(sums.sum() / counts.sum())
    low, high = mean_interval(mean + (sums - mean * counts) / counts.mean())
    return ClusteredMean(mean, (low, high) if len(sums) > 1 else None)


def held_out_scores(
    loaded: Loaded, part: float, store: EpisodeStore, max_steps: int = MAX_STEPS
) -> OfflineScores:
    """Measure a loaded checkpoint on the part of its episodes that training held out.

    store: the data that it was trained on.
    """
    facts = loaded.facts
    episodes = held_out(store.num_episodes, part)
    groups = offline_metrics(
        loaded.policy,
        loaded.conditioning,
        loaded.policy_config.context_length,
        store,
        episodes,
        max_steps,
    )
    return OfflineScores(
        dataset=facts.dataset,
        source=facts.source,
        checkpoint=str(loaded.path),
        held_out_episodes=int(episodes.sum()),
        held_out_steps=int(store.lengths[episodes].sum()),
        groups=groups,
    )


def offline_text(scores: OfflineScores) -> str:
    """The measures as an aligned table, with a header about their data."""

    def cells(estimate: ClusteredMean) -> list[str]:
        return [number_text(estimate.mean, 4), interval_text(estimate.interval_95, 4)]

    names = [name.replace("_", " ") for name in scores.groups[0].metrics]
    spread = [part for name in names for part in (name, "95 % interval")]
    rows = [
        [
            group.name,
            " to ".join(map(number_text, group.returns)),
            f"{group.episodes:,}",
            f"{group.steps:,}",
            *(cell for estimate in group.metrics.values() for cell in cells(estimate)),
        ]
        for group in scores.groups
    ]
    measured = scores.groups[0].steps
    lines = [
        f"dataset      {terminal(scores.dataset)}",
        f"source       {terminal(scores.source)}",
        f"checkpoint   {terminal(scores.checkpoint)}",
        f"held out     {scores.held_out_episodes:,} episodes, {scores.held_out_steps:,} steps;"
        f" {measured:,} measured; actions compared with the data's, no rollout",
        "",
        table(["episodes of", "return", "episodes", "steps", *spread], rows),
    ]
    if any(group.name.endswith(TIED) for group in scores.groups):
        lines += [
            "",
            "tied: episodes of one return are measured together, not split over quartiles",
        ]
    return "\n".join(lines)
