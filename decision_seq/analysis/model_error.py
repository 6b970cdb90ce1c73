"""Model error over long horizons: open-loop predictions of a Trajectory Transformer.

The model receives the first transitions of an episode and all later actions. Observations, rewards
and values are drawn token by token, far beyond the window used in training. The observations are
compared with those of the episode (Janner et al., 2021, section 4.1).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.evaluation import compute_device
from decision_seq.machine.memory import large_enough
from decision_seq.policies import TrajectoryTransformer
from decision_seq.policies.trajectory_transformer.imagination import Imagination
from decision_seq.policies.trajectory_transformer.planner import MOST, Drawing, Futures
from decision_seq.report.statistics import mean_interval
from decision_seq.runs.resolve import config_of, open_data
from decision_seq.types import Bar, Batch, Reporter, Sampling, Spec


@torch.inference_mode()
def predict(
    policy: TrajectoryTransformer,
    prefix: Tensor,
    actions: Tensor,
    samples: int,
    draws: Tensor,
    bar: Bar | None = None,
) -> Tensor:
    """Predict the observations [B, samples, T, S] after B prefixes, given actions [B, T, A].

    prefix: tokens [B, L] of some transitions and an observation; draws: [B] in [0, 1), the random
    numbers that determine the samples. Values are NaN from the step where a sample stops.
    """
    layout, config = policy.layout, policy.config
    count, steps = actions.shape[:2]
    past = prefix.shape[1] // layout.size
    # One more step, for the observation that follows the last action.
    horizon = replace(config.planner, horizon=steps + 1, context=past, every=1)
    lengths = torch.full_like(prefix[:, 0], prefix.shape[1])
    model = Imagination(policy, None)
    futures = Futures(model, prefix, lengths, layout, horizon, config.context_length)
    futures.fork(samples)
    drawing = Drawing(Sampling(draws, 1.0))
    taken = policy.tokenizer.encode(actions, layout.observation)  # [B, T, A]
    for step in range(steps):
        for tokens in taken[:, step].T:
            futures.read(tokens.repeat_interleave(samples))
        for _ in range(2 + layout.observation):  # reward, value, next observation
            futures.read(drawing.tokens(futures.logits(), None, None))
        if bar is not None:
            bar.update()
    transitions = futures.tokens.view(count, samples, steps + 1, layout.size)
    seen = transitions[:, :, 1:, : layout.observation]  # [B, samples, T, S]
    stopped = (seen == layout.stop).any(-1, keepdim=True).cummax(2).values
    values = policy.tokenizer.decode(seen.clamp(max=layout.stop - 1))
    return values.masked_fill(stopped, torch.nan)


def predict_checkpoint(
    path: Path,
    dataset: str | None = None,
    steps: int = 100,
    episodes: int = 8,
    samples: int = 16,
    seed: int = 0,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Predict from the beginning of episodes of the data -> plain values, for `plot_prediction`.

    The episodes are drawn among those that are long enough. Errors are root mean squares over the
    dimensions, in standard deviations of the data. They are given for the mean of the samples, for
    one sample, for the last known observation, and for the discretized true one, a lower bound.
    """
    reporter = reporter or Reporter()
    for name, value in (("steps", steps), ("episodes", episodes), ("samples", samples)):
        require(value >= 1, f"--{name} {value} must be at least 1")
    require(samples <= MOST, f"--samples {samples} must be at most {MOST:,}")
    require(seed >= 0, f"--seed {seed} must not be negative")
    loaded = checkpoint.load(path, compute_device(device), reporter=reporter)
    policy = loaded.policy.eval()
    require(
        isinstance(policy, TrajectoryTransformer) and not policy.goal,
        f"{path} is no Trajectory Transformer of outcomes: it predicts no observations",
    )
    assert isinstance(policy, TrajectoryTransformer)
    config = config_of(loaded.config)
    store = open_data(replace(config, dataset=dataset or config.dataset), reporter)
    past = policy.config.planner.context
    _check_sizes(store, policy.spec)
    needed = past + steps + 1
    long = np.flatnonzero(store.lengths >= needed)
    require(
        len(long) > 0,
        f"{store.name}: no episode has {needed:,} steps (a context of {past}, and --steps {steps})",
    )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(long, min(episodes, len(long)), replace=False))
    lived = [store.episode(int(index)) for index in chosen]
    observations = torch.as_tensor(np.stack([e.observations[:needed] for e in lived]))
    actions = torch.as_tensor(np.stack([e.actions[: needed - 1] for e in lived])).float()
    rewards = torch.as_tensor(np.stack([e.rewards[: needed - 1] for e in lived])).float()
    home = policy.positions.device
    prefix = _prefix(policy, observations, actions, rewards)
    draws = torch.as_tensor(rng.random(len(lived)), device=home)
    with (
        large_enough("these futures: lower --samples, --episodes or --steps"),
        reporter.bar("predict", "step", steps) as bar,
    ):
        predicted = predict(policy, prefix, actions[:, past:].to(home), samples, draws, bar).cpu()
    truth = observations[:, past + 1 :]
    binned = policy.tokenizer.decode(policy.tokenizer.encode(truth.to(home))).cpu()
    deviation = torch.as_tensor(store.observation_statistics[1]).float().clamp_min(1e-6)

    def error(found: Tensor, true: Tensor = truth) -> Tensor:
        """[..., T, S] -> [..., T]."""
        return ((found - true) / deviation).square().mean(-1).sqrt()

    curves = {
        "mean of the samples": error(predicted.nanmean(1)),
        "one sample": error(predicted, truth[:, None]).nanmean(1),
        "the last one seen": error(observations[:, past : past + 1].expand_as(truth)),
        "the true one, binned": error(binned),
    }
    return {
        "checkpoint": str(loaded.path),
        "dataset": store.name,
        "source": store.source,
        "episodes": chosen.tolist(),
        "context": past,
        "window": policy.config.context_length,
        "steps": steps,
        "samples": samples,
        "seed": seed,
        "stopped": float(predicted[:, :, -1, 0].isnan().float().mean()),
        "errors": {name: _curve(curve.numpy()) for name, curve in curves.items()},
        "shown": {
            "true": truth[0].tolist(),
            **{
                name: _told(predicted[0].nanquantile(part, 0))
                for name, part in (("low", 0.1), ("median", 0.5), ("high", 0.9))
            },
            "deviation": deviation.tolist(),
        },
    }


def _check_sizes(store: EpisodeStore, spec: Spec) -> None:
    """UserError unless the data have the policy's sizes."""
    taken = store.columns["actions"]
    kind = "continuous" if taken.dtype.kind == "f" else "discrete"
    found = (store.observation_shape, taken.array.shape[1:], kind)
    expected = (spec.observation_shape, (spec.action_size,), spec.action_kind)

    def named(observation: tuple[int, ...], action: tuple[int, ...], kind: str) -> str:
        return f"observations {list(observation)} and {kind} actions {list(action)}"

    require(
        found == expected,
        f"{store.name} has {named(*found)}, the policy {named(*expected)}; name other data with"
        " --dataset",
    )


def _prefix(
    policy: TrajectoryTransformer, observations: Tensor, actions: Tensor, rewards: Tensor
) -> Tensor:
    """Tokens [B, L] of the first transitions, as many as a plan reads, and the next observation."""
    # Only the observation of the last step is read.
    known = slice(policy.config.planner.context + 1)
    steps = rewards[:, known]
    lived = Batch(
        observations[:, known],
        actions[:, known],
        steps,
        steps.new_zeros(*steps.shape, 2),
        torch.arange(steps.shape[1]).expand_as(steps),
        torch.ones_like(steps, dtype=torch.bool),
    )
    return policy.prefix(policy.encoded(lived.tensors(policy.positions.device)))[0]


def _told(values: Tensor) -> list[list[float | None]]:
    """[T, S] as nested lists, with None in place of NaN (no sample left)."""
    return [[None if np.isnan(number) else number for number in row] for row in values.tolist()]


def _curve(errors: np.ndarray) -> dict[str, list[float | None]]:
    """Means [T] and 95 % intervals of errors [B, T] over the episodes.

    NaN: an episode without remaining samples, left out. None where too few episodes remain.
    """
    left = [column[~np.isnan(column)] for column in errors.T]
    ends = [mean_interval(column) if len(column) > 1 else (None, None) for column in left]
    low, high = zip(*ends, strict=True)
    means = [float(column.mean()) if len(column) else None for column in left]
    return {"mean": means, "low": list(low), "high": list(high)}
