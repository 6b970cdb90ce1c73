"""The scores of a conditioned policy: which episodes are rolled out, and what they come to.

Exactly N episodes a target are run to their own end, so that none is favoured for being short.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.data.conditioning import Conditioning
from decision_seq.envs import Environments, environment_notes, normalize, obstacle
from decision_seq.policies.base import Policy
from decision_seq.rollout import rollout
from decision_seq.statistics import mean_interval
from decision_seq.types import Reporter, Scores, Spec, TargetScore, UserError


@dataclass(frozen=True)
class EvaluationConfig:
    """env_id and targets: null takes those of the dataset's task (`envs.FACTS`).

    targets: raw returns asked for, declared before training; the first is the headline.
    episodes: a target, 0 for no evaluation; episode i starts from seed + i whatever the target.
    every: updates between evaluations during training, 0 for the one at its end alone.
    """

    env_id: str | None = None
    targets: tuple[float, ...] | None = None
    episodes: int = 50
    seed: int = 10_000
    every: int = 0

    def __post_init__(self) -> None:
        require(
            self.episodes >= 0, f"config: evaluation.episodes {self.episodes} must not be negative"
        )
        require(self.targets != (), "config: evaluation.targets is empty; name at least one return")
        finite = self.targets is None or bool(np.isfinite(self.targets).all())
        require(finite, f"config: evaluation.targets {self.targets} must be finite numbers")
        for key in ("seed", "every"):
            value = getattr(self, key)
            require(value >= 0, f"config: evaluation.{key} {value} must not be negative")


WAVE = 25  # episodes rolled out together: a linear layer's last bits depend on how many rows it has


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's protocol: which episodes, and how they become scores.

    Episodes are numbered target by target and rolled out in waves of `WAVE` consecutive ones. Ranks
    share out the waves, so that a score does not depend on how many ranks there are.

    reference_scores: (random, expert) raw returns, which normalise the others.
    """

    conditioning: Conditioning
    context_length: int
    env_id: str
    targets: tuple[float, ...]
    episodes: int
    seed: int
    reference_scores: tuple[float, float] | None = None

    def protocol(self) -> dict[str, Any]:
        """What decides which episodes are rolled out."""
        return {
            "env_id": self.env_id,
            "targets": self.targets,
            "episodes": self.episodes,
            "seed": self.seed,
        }

    def roll(
        self, policy: Policy, rank: int = 0, world: int = 1, reporter: Reporter | None = None
    ) -> dict[str, Any]:
        """This rank's waves -> what `scores` takes; UserError when the environment does not fit."""
        count = len(self.targets) * self.episodes
        waves = [range(at, min(at + WAVE, count)) for at in range(0, count, WAVE)][rank::world]
        returns: dict[str, list[float]] = {}
        lengths: dict[str, list[int]] = {}
        started = time.perf_counter()
        if waves:
            environments = Environments(self.env_id, max(map(len, waves)))
            _check_sizes(environments, policy.spec)
            total = sum(map(len, waves))
            with (reporter or Reporter()).bar("evaluate", "episode", total) as bar:
                for wave in waves:
                    obtained = rollout(
                        policy,
                        self.conditioning,
                        self.context_length,
                        environments,
                        np.array([self.targets[i // self.episodes] for i in wave], np.float64),
                        [self.seed + i % self.episodes for i in wave],
                        bar,
                    )
                    returns[str(wave.start)], lengths[str(wave.start)] = (
                        array.tolist() for array in obtained
                    )
            environments.close()
        return {
            "returns": returns,
            "lengths": lengths,
            "seconds": time.perf_counter() - started,
        }

    def scores(self, parts: Sequence[dict[str, Any]]) -> tuple[list[TargetScore], float]:
        """What every rank rolled out -> scores in the order of the targets, env steps/s."""
        returns, lengths = (
            np.concatenate([merged[key] for key in sorted(merged, key=int)])
            for merged in (
                {key: row for part in parts for key, row in part[what].items()}
                for what in ("returns", "lengths")
            )
        )
        rate = lengths.sum() / max(part["seconds"] for part in parts)
        count = len(self.targets)
        per_target = zip(
            self.targets, np.split(returns, count), np.split(lengths, count), strict=True
        )
        scored = [score(t, r, n, self.seed, self.reference_scores) for t, r, n in per_target]
        return scored, float(rate)


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
    evaluation = Evaluation(
        loaded.conditioning,
        loaded.policy_config.context_length,
        env_id,
        config.targets or (),
        episodes,
        seed,
        facts.reference_scores,
    )
    scores, rate = evaluation.scores([evaluation.roll(loaded.policy, reporter=reporter)])
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
