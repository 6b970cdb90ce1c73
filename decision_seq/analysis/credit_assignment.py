"""Credit assignment: running return estimates and attention of a policy over random episodes.

The uniform random policy plays episodes in the checkpoint's environment. The `info` of that
environment must report an event (whether the key is held) and the current stage (the room).
Chen et al. (2021), section 5.6, show both analyses for Key-to-Door.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.envs import ActionSpace, Environments
from decision_seq.evaluation import compute_device
from decision_seq.evaluation.episode_rows import device_of
from decision_seq.policies import DecisionTransformer, ReturnPredictor
from decision_seq.report.statistics import area_under_curve, mean_interval
from decision_seq.runs.resolve import config_of
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Batch, Episode, Reporter, UserError

WAVE = 64  # episodes per forward pass
MOST_STEPS = 10_000  # of an episode, where its environment has no limit and might never end it
SHOWN = 6  # episodes of each group whose running estimates are returned one by one


@dataclass(frozen=True)
class Witnessed:
    """A played episode with its event and stages."""

    episode: Episode
    """The episode."""
    happened: np.ndarray
    """Whether the event had happened after each step, [T]."""
    stages: np.ndarray
    """Stage of each step, [T]."""


def play(env_id: str, count: int, seed: int, event: str, stage: str) -> list[Witnessed]:
    """Play episodes of uniform random actions, episode i from seed + i.

    UserError where `info` has no entries `event` and `stage`.
    """
    environments = Environments(env_id, 1)
    if environments.max_episode_steps is None:
        environments.step_limit = MOST_STEPS
    first = np.zeros(1, np.int64)
    played = []
    for number in range(seed, seed + count):
        rng = np.random.default_rng([number, 0xE7])
        observations = [environments.reset([number])[0]]
        _require_told(environments, event, stage)
        steps: list[tuple[Any, ...]] = []
        over = cut = np.zeros(1, bool)
        while environments.running.any():
            action = _random_action(environments.actions, rng)
            seen, rewards, over, cut = environments.step(first, action[None])
            observations.append(seen[0])
            steps.append((action, rewards[0], *_told(environments, event, stage)))
        actions, rewards, happened, stages = (np.array(part) for part in zip(*steps, strict=True))
        ended = (bool(over[0]), bool(cut[0]))
        episode = Episode(np.array(observations, np.float32), actions, rewards, *ended)
        played.append(Witnessed(episode, happened, stages))
    environments.close()
    return played


def _require_told(environments: Environments, event: str, stage: str) -> dict[str, Any]:
    """The `info` of the last step; UserError where it has no entries `event` and `stage`."""
    info = environments.infos[0]
    require(
        isinstance(info, dict),
        f"{environments.env_id} gives an info of type {type(info).__name__}, not a dict",
    )
    for name in (event, stage):
        require(
            name in info,
            f"{environments.env_id} tells of no {name!r} (it tells of"
            f" {', '.join(map(str, info)) or 'nothing'})",
        )
    return info


def _told(environments: Environments, event: str, stage: str) -> tuple[bool, int]:
    """Whether the event has happened, and the stage, after the last step."""
    info = _require_told(environments, event, stage)
    try:
        return bool(info[event]), int(info[stage])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{environments.env_id}: info has {info[event]!r:.40} as {event!r} and"
            f" {info[stage]!r:.40} as {stage!r}; true or false, and a whole number, are needed"
        ) from error


def _random_action(actions: ActionSpace, rng: np.random.Generator) -> np.ndarray:
    if actions.bounds is None:
        return np.asarray(actions.first_choice + rng.integers(actions.size))
    low, high = actions.bounds
    require(
        bool(np.isfinite(high - low).all()),
        "actions without bounds cannot be drawn at random; name an environment with bounds",
    )
    return rng.uniform(low, high).astype(np.float32)


def whole(episodes: Sequence[Episode], conditioning: Conditioning) -> Batch:
    """A batch with one whole episode per row and its hindsight labels, padded to the longest."""
    longest = max(len(episode) for episode in episodes)

    def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
        for row, array in zip(rows, arrays, strict=True):
            row[: len(array)] = array
        return rows

    lengths = np.array([len(episode) for episode in episodes])
    steps = np.arange(longest)
    return Batch(
        observations=padded([episode.observations[: len(episode)] for episode in episodes]),
        actions=padded([episode.actions for episode in episodes]),
        rewards=padded([episode.rewards for episode in episodes]),
        conditions=padded([conditioning.relabel(episode) for episode in episodes]),
        timesteps=np.tile(steps, (len(lengths), 1)),
        mask=steps < lengths[:, None],
    ).tensors()


@torch.inference_mode()
def attention_of_steps(policy: DecisionTransformer, batch: Batch) -> np.ndarray:
    """Attention from each step to each step, [B, T, T]; rows sum to 1.

    The weights are averaged over layers, heads and the querying step's tokens, and summed over the
    attended step's tokens.
    """
    tokens = policy.all_tokens(policy.encoded(batch))
    looks = policy.backbone.attention(tokens).mean((0, 2))  # [B, L, L]
    parts = (batch.mask.shape[1], policy.tokens_per_step)
    return looks.unflatten(1, parts).mean(2).unflatten(2, parts).sum(3).cpu().numpy()


def explain(
    path: Path,
    episodes: int = 1000,
    seed: int = 0,
    event: str = "key",
    stage: str = "phase",
    device: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Play episodes and analyse the policy on them -> plain values, for `plot_explanation`.

    `estimates` is None where the policy is no `ReturnPredictor`.
    """
    require(episodes >= 2, f"--episodes {episodes} must be at least 2")
    require(seed >= 0, f"--seed {seed} must not be negative")
    loaded = checkpoint.load(path, compute_device(device), reporter=reporter)
    policy, config = loaded.policy.eval(), config_of(loaded.config)
    require(
        isinstance(policy, DecisionTransformer) and not policy.spec.pixels,
        f"{path} is no transformer of vector observations that reads states and actions as tokens",
    )
    assert isinstance(policy, DecisionTransformer)
    require(policy.backbone.shows_attention, f"{path}: its backbone has no attention to look at")
    env_id = config.evaluation.env_id
    require(env_id is not None, f"{path} names no environment to play in")
    played = play(str(env_id), episodes, seed, event, stage)
    longest, window = max(len(one.happened) for one in played), policy.config.context_length
    require(
        longest <= window,
        f"{path}: an episode has {longest} steps, the policy's window {window}; train with"
        f" --policy.context_length {longest}",
    )
    expected, looks = [], []
    with (reporter or Reporter()).bar("explain", "episode", episodes) as bar:
        for first in range(0, episodes, WAVE):
            part = [one.episode for one in played[first : first + WAVE]]
            batch = whole(part, config.conditioning).tensors(device_of(policy))
            lengths = [len(episode) for episode in part]
            maps = attention_of_steps(policy, batch)
            looks += [map_[:n, :n] for map_, n in zip(maps, lengths, strict=True)]
            if isinstance(policy, ReturnPredictor):
                with torch.inference_mode():
                    rows = policy.expected(batch).cpu().numpy()
                expected += [row[:n] for row, n in zip(rows, lengths, strict=True)]
            bar.update(len(part))
    return {
        "checkpoint": str(loaded.path),
        "env_id": env_id,
        "episodes": episodes,
        "seed": seed,
        "event": event,
        "stage": stage,
        "happened": sum(bool(one.happened[-1]) for one in played),
        "succeeded": sum(_succeeded(one) for one in played),
        "estimates": _estimates(played, expected) if expected else None,
        "attention": _attention(played, looks),
    }


def _succeeded(one: Witnessed) -> bool:
    return float(one.episode.rewards.sum()) > 0


def _estimates(played: Sequence[Witnessed], expected: Sequence[np.ndarray]) -> dict[str, Any]:
    """Statistics of the running estimates.

    separated: at the end of each stage, how well the estimate separates the episodes where the
    event has happened; moved: its change at the event and at success; groups: means step by step.
    """
    stages = sorted({int(number) for one in played for number in one.stages})
    separated = {}
    for number in stages:
        rows = [
            (estimate[at], one.happened[at])
            for one, estimate in zip(played, expected, strict=True)
            for at in np.flatnonzero(one.stages == number)[-1:]
        ]
        scores, positive = (np.array(part) for part in zip(*rows, strict=True))
        if 0 < positive.sum() < len(positive):
            area, interval = area_under_curve(scores, positive)
            separated[str(number)] = {"area": area, "interval_95": interval, "episodes": len(rows)}
    moved: dict[str, list[tuple[float, float]]] = {"event": [], "success": []}
    groups: dict[str, list[np.ndarray]] = {"success": [], "event": [], "neither": []}
    for one, estimate in zip(played, expected, strict=True):
        if one.happened[-1] and (at := int(one.happened.argmax())):
            moved["event"].append((estimate[at - 1], estimate[at]))
        if _succeeded(one) and len(estimate) > 1:
            moved["success"].append((estimate[-2], estimate[-1]))
        name = "success" if _succeeded(one) else "event" if one.happened[-1] else "neither"
        groups[name].append(estimate)
    return {
        "separated": separated,
        "moved": {name: _moved(pairs) for name, pairs in moved.items() if pairs},
        "groups": {name: _curve(rows) for name, rows in groups.items() if rows},
        "shown": {name: [row.tolist() for row in rows[:SHOWN]] for name, rows in groups.items()},
        "stages": [int(number) for number in max((one.stages for one in played), key=len)],
    }


def _moved(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    before, after = np.array(pairs, np.float64).T
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "rise": float((after - before).mean()),
        "interval_95": mean_interval(after - before),
        "episodes": len(pairs),
    }


def _curve(rows: Sequence[np.ndarray]) -> dict[str, Any]:
    """Rows of unequal length -> their mean and their 10 % and 90 % quantiles, step by step."""
    length = max(map(len, rows))
    columns = [np.array([row[at] for row in rows if len(row) > at]) for at in range(length)]
    return {
        "episodes": len(rows),
        "mean": [float(column.mean()) for column in columns],
        "low": [float(np.quantile(column, 0.1)) for column in columns],
        "high": [float(np.quantile(column, 0.9)) for column in columns],
    }


def _attention(played: Sequence[Witnessed], looks: Sequence[np.ndarray]) -> dict[str, Any] | None:
    """Mean attention from the last stage to the step of the event and to others of its stage.

    Only episodes where the event happened before the last stage count; None for fewer than two.
    """
    last = max(int(one.stages.max()) for one in played)
    rows, profiles = [], []
    for one, look in zip(played, looks, strict=True):
        at = int(one.happened.argmax())
        asking = one.stages == last
        if not one.happened[-1] or one.stages[at] == last or not asking.any():
            continue
        profile = look[asking].mean(0)  # [T]
        others = (one.stages == one.stages[at]) & (np.arange(len(profile)) != at)
        if others.any():
            rows.append((profile[at], profile[others].mean()))
            profiles.append((at, profile, one, look))
    if len(rows) < 2:
        return None
    on_event, on_others = np.array(rows, np.float64).T
    at, _, one, look = max(profiles, key=lambda found: (_succeeded(found[2]), found[0]))
    return {
        "episodes": len(rows),
        "last_stage": last,
        "on_event": float(on_event.mean()),
        "on_event_interval_95": mean_interval(on_event),
        "on_others": float(on_others.mean()),
        "on_others_interval_95": mean_interval(on_others),
        "difference": float((on_event - on_others).mean()),
        "difference_interval_95": mean_interval(on_event - on_others),
        "by_event_step": {
            str(step): _curve([profile for found, profile, *_ in profiles if found == step])
            for step in sorted({found for found, *_ in profiles})
        },
        "shown": {"event": at, "stages": one.stages.tolist(), "map": look.tolist()},
    }
