"""Rollouts of a conditioned policy, and their scores.

Every episode of every target advances together, one batched forward a step; exactly N episodes are
run to their own end, so that none is favoured for being short.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning
from decision_seq.envs import Environments, environment_notes, normalize, obstacle
from decision_seq.policies.base import Policy
from decision_seq.types import Batch, Reporter, Scores, Spec, TargetScore, Transition, UserError


@dataclass(frozen=True)
class EvaluationConfig:
    """env_id and targets: null takes those of the dataset's task (`envs.FACTS`).

    targets: raw returns asked for, declared before training; the first is the headline.
    episodes: a target, 0 for no evaluation; episode i starts from seed + i whatever the target.
    """

    env_id: str | None = None
    targets: tuple[float, ...] | None = None
    episodes: int = 50
    seed: int = 10_000

    def __post_init__(self) -> None:
        require(
            self.episodes >= 0, f"config: evaluation.episodes {self.episodes} must not be negative"
        )
        require(self.targets != (), "config: evaluation.targets is empty; name at least one return")
        finite = self.targets is None or bool(np.isfinite(self.targets).all())
        require(finite, f"config: evaluation.targets {self.targets} must be finite numbers")
        require(self.seed >= 0, f"config: evaluation.seed {self.seed} must not be negative")


class Context:
    """The last K steps of N live episodes, held as the training windows are: padded on the right.

    The newest step of row i is at `lengths[i] - 1`; its action is not known yet and is 0, which
    no causal policy reads.
    """

    def __init__(self, count: int, context_length: int, spec: Spec) -> None:
        shape = (count, context_length)
        continuous = spec.action_kind == "continuous"
        self.observations = np.zeros((*shape, *spec.observation_shape), np.float32)
        self.actions = np.zeros(
            (*shape, spec.action_size) if continuous else shape, np.float32 if continuous else int
        )
        self.rewards = np.zeros(shape, np.float32)
        self.conditions = np.zeros((*shape, spec.condition_size), np.float32)
        self.timesteps = np.zeros(shape, np.int64)
        self.lengths = np.zeros(count, np.int64)
        self.context_length, self.max_timestep = context_length, spec.max_timestep

    def start(self, observations: np.ndarray, conditions: np.ndarray) -> None:
        """Begin every row anew at its first observation [N, ...] and condition [N, C]."""
        for array in self._arrays():
            array[:] = 0
        self.lengths[:] = 1
        self.observations[:, 0] = observations
        self.conditions[:, 0] = conditions

    def append(
        self,
        rows: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        observations: np.ndarray,
        conditions: np.ndarray,
    ) -> None:
        """Complete the newest step of `rows` with its action and reward, and open the next."""
        newest = self.lengths[rows] - 1
        self.actions[rows, newest] = actions
        self.rewards[rows, newest] = rewards
        timesteps = np.minimum(self.timesteps[rows, newest] + 1, self.max_timestep - 1)
        full = rows[self.lengths[rows] == self.context_length]
        for array in self._arrays():
            array[full, :-1] = array[full, 1:]
        self.lengths[rows] = np.minimum(self.lengths[rows] + 1, self.context_length)
        newest = self.lengths[rows] - 1
        self.observations[rows, newest] = observations
        self.conditions[rows, newest] = conditions
        self.timesteps[rows, newest] = timesteps
        self.actions[rows, newest] = 0
        self.rewards[rows, newest] = 0

    def newest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Conditions [R, C] and timesteps [R] of the newest step of `rows`."""
        newest = self.lengths[rows] - 1
        return self.conditions[rows, newest], self.timesteps[rows, newest]

    def batch(self, rows: np.ndarray) -> Batch:
        """The contexts of `rows` as a numpy Batch, no longer than the longest of them."""
        length = int(self.lengths[rows].max())
        observations, actions, rewards, conditions, timesteps = (
            array[rows, :length] for array in self._arrays()
        )
        mask = np.arange(length) < self.lengths[rows][:, None]
        return Batch(observations, actions, rewards, conditions, timesteps, mask)

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.observations, self.actions, self.rewards, self.conditions, self.timesteps


@torch.inference_mode()
def rollout(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    environments: Environments,
    targets: np.ndarray,
    seeds: Sequence[int],
    reporter: Reporter | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One episode a target and seed, all advanced together -> returns [N], lengths [N].

    targets: [N] raw returns.
    """
    policy.eval()
    device = next(policy.parameters()).device
    context = Context(len(seeds), context_length, policy.spec)
    observations = environments.reset(seeds)
    context.start(observations, conditioning.prompt(targets))
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    state = None
    with (reporter or Reporter()).bar("evaluate", "episode", len(seeds)) as bar:
        while environments.running.any():
            rows = np.flatnonzero(environments.running)
            actions, state = policy.act(context.batch(rows).tensors(device), state)
            chosen = actions.cpu().numpy()
            following, rewards, _, _ = environments.step(rows, chosen)
            transition = Transition(observations[rows], chosen, rewards, following)
            conditions, timesteps = context.newest(rows)
            conditions = conditioning.advance(conditions, targets[rows], transition, timesteps)
            context.append(rows, chosen, rewards, following, conditions)
            observations[rows] = following
            returns[rows] += rewards
            lengths[rows] += 1
            bar.update(len(rows) - int(environments.running.sum()))
    return returns, lengths


def evaluate(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    env_id: str,
    targets: Sequence[float],
    episodes: int,
    seed: int,
    reference_scores: tuple[float, float] | None = None,
    reporter: Reporter | None = None,
) -> tuple[list[TargetScore], float]:
    """Roll out `episodes` episodes a target -> scores in the order of `targets`, env steps/s.

    reference_scores: (random, expert) raw returns, which normalise the others. UserError when the
    environment does not fit the policy.
    """
    count = len(targets) * episodes
    environments = Environments(env_id, count)
    _check_sizes(environments, policy.spec)
    started = time.perf_counter()
    returns, lengths = rollout(
        policy,
        conditioning,
        context_length,
        environments,
        np.repeat(np.asarray(targets, np.float64), episodes),
        [seed + i for i in range(episodes)] * len(targets),
        reporter,
    )
    rate = lengths.sum() / (time.perf_counter() - started)
    environments.close()
    per_target = zip(
        targets, np.split(returns, len(targets)), np.split(lengths, len(targets)), strict=True
    )
    return [score(t, r, n, seed, reference_scores) for t, r, n in per_target], float(rate)


def _device(name: str | None) -> torch.device:
    """The device asked for, by default CUDA where it is; UserError when it cannot compute."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.ones(1, device=device).tolist()
    except Exception as error:  # every backend refuses in its own way
        first = " ".join(str(error).split())[:100]
        raise UserError(f"--device {name} cannot be used here: {first}") from error
    return device


def check_environment(env_id: str, spec: Spec) -> None:
    """UserError unless the environment exists here and fits the policy: found before training."""
    environments = Environments(env_id, 1)
    _check_sizes(environments, spec)
    environments.close()


def _check_sizes(environments: Environments, spec: Spec) -> None:
    expected = (spec.observation_shape, spec.action_size)
    if environments.sizes != expected:
        raise UserError(
            f"{environments.env_id} has observations and actions of sizes {environments.sizes}, the"
            f" policy's are {expected}; name another environment"
        )


def evaluate_checkpoint(
    path: Path,
    targets: Sequence[float] | None = None,
    episodes: int = 50,
    seed: int = 10_000,
    env_id: str | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Scores:
    """Roll out a checkpoint, or a run's newest, at its own targets unless others are given."""
    loaded = checkpoint.load(path, _device(device))
    facts = loaded.facts
    env_id = env_id or facts.env_id
    if env_id is None:
        reason = obstacle(None, facts.family) or "it names none"
        raise UserError(f"{path} cannot be rolled out: {reason}; give an environment with --env")
    config = EvaluationConfig(env_id, tuple(targets or facts.targets), episodes, seed)
    require(episodes >= 1, f"{episodes} episodes asked for; at least 1 is needed")
    scores, rate = evaluate(
        loaded.policy,
        loaded.conditioning,
        loaded.policy_config.context_length,
        env_id,
        config.targets or (),
        episodes,
        seed,
        facts.reference_scores,
        reporter,
    )
    return Scores(
        dataset=facts.dataset,
        source=facts.source,
        env_id=env_id,
        checkpoint=str(loaded.path),
        targets=scores,
        notes=environment_notes(env_id),
        env_steps_per_second=rate,
    )


def score(
    target: float,
    returns: np.ndarray,
    lengths: np.ndarray,
    seed: int,
    reference_scores: tuple[float, float] | None,
) -> TargetScore:
    """Summarise one target's episodes, normalised where reference scores are known."""
    low, high = mean_interval(returns)
    mean = float(returns.mean())
    normalized = None
    if reference_scores is not None:
        normalized, low, high = (normalize(v, reference_scores) for v in (mean, low, high))
    return TargetScore(
        target=float(target),
        returns=[float(value) for value in returns],
        lengths=[int(value) for value in lengths],
        seed=seed,
        return_mean=mean,
        return_std=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        normalized_score=normalized,
        interval_95=(low, high) if len(returns) > 1 else None,
        episodes=len(returns),
    )


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean by Student's t; the mean itself, twice, for a single value."""
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half
