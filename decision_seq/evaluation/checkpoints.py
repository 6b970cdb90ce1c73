"""Evaluation of a checkpoint, from its own files alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from decision_seq import at_hand
from decision_seq.checkpoint import Loaded, load
from decision_seq.config import load as load_config
from decision_seq.config import read_yaml, require, to_tree
from decision_seq.envs import environment_notes, obstacle
from decision_seq.evaluation.episode_rows import device_of
from decision_seq.evaluation.protocol import Evaluation, EvaluationConfig, check_environment
from decision_seq.evaluation.targets import equal_targets
from decision_seq.formatting import error_text
from decision_seq.policies import PolicyConfig
from decision_seq.types import Reporter, Scores, UserError


@dataclass(frozen=True)
class Opened:
    """A checkpoint and the evaluation to run on it."""

    loaded: Loaded
    """The checkpoint: policy, conditioning, configuration and facts about its data."""
    evaluation: Evaluation
    """The evaluation, resolved."""
    notes: tuple[str, ...] = ()
    """Deviations from the run's own settings, listed with the scores."""
    replanned: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Planner settings that differ from training: (in training, now)."""

    @property
    def device(self) -> torch.device:
        return device_of(self.loaded.policy)

    @property
    def processes(self) -> int:
        """Number of processes used for the rollouts."""
        episodes = len(self.evaluation.requests())
        return self.evaluation.layout(self.loaded.policy, episodes, alone=True)[1]

    def protocol(self) -> dict[str, Any]:
        """As `Evaluation.protocol`, with the planner settings that differ from training."""
        planner = {key: now for key, (_, now) in self.replanned.items()}
        return {**self.evaluation.protocol(), **({"planner": planner} if planner else {})}

    def scores(self, reporter: Reporter | None = None) -> Scores:
        """Roll out in this process and its worker processes, and score the episodes."""
        found, rate = self.evaluation.scores(
            [self.evaluation.rank_part(self.loaded.policy, reporter=reporter)]
        )
        facts, env_id = self.loaded.facts, self.evaluation.env_id
        return Scores(
            dataset=facts.dataset,
            source=facts.source,
            env_id=env_id,
            checkpoint=at_hand.shown(self.loaded.path),
            targets=found,
            notes=[*environment_notes(env_id), *facts.notes, *self.notes],
            env_steps_per_second=rate,
        )


def open_checkpoint(
    path: Path,
    device: str | None = None,
    planner: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    **asked: Any,
) -> Opened:
    """Open a checkpoint, or a run's newest, with the run's evaluation settings.

    planner, reporter: see `checkpoint.load`; asked: keys of `EvaluationConfig` that replace the
    run's, None for the run's. UserError when there is no environment to roll it out in.
    """
    loaded = load(path, compute_device(device), planner, reporter)
    config = configured(loaded, path, **asked)
    facts = loaded.facts
    if config.env_id is None:
        reason = obstacle(None, facts.family) or "it names none"
        raise UserError(f"{path} cannot be rolled out: {reason}; give an environment with --env")
    require(config.episodes >= 1, f"{config.episodes} episodes asked for; at least 1 is needed")
    require(
        loaded.conditioning.asks or asked.get("targets") is None,
        f"{path} was trained to be asked for nothing",
    )
    limit = check_environment(config.env_id, loaded.policy.spec, config.max_episode_steps, reporter)
    config = dataclasses.replace(config, max_episode_steps=limit)
    evaluation = Evaluation.of(
        config,
        loaded.conditioning,
        loaded.policy_config.context_length,
        facts,
    )
    equal = equal_targets(config.targets or (), facts.return_percentiles)
    replanned = _replanned(loaded, planner or {})
    changes = (f"planner.{k} {now}, {then} in training" for k, (then, now) in replanned.items())
    notes = (*changes, *([equal] if equal else ()), *limit_notes(limit))
    return Opened(loaded, evaluation, notes, replanned)


def limit_notes(limit: int | None) -> tuple[str, ...]:
    """Notes on a limit of steps that the environment does not have."""
    return () if limit is None else (f"episodes are truncated after {limit:,} steps",)


def _replanned(loaded: Loaded, planner: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The planner settings that differ from training, with both values."""
    if not planner:
        return {}
    trained, now = (
        to_tree(config)["planner"]
        for config in (load_config(PolicyConfig, loaded.config["policy"]), loaded.policy_config)
    )
    return {key: (trained[key], now[key]) for key in planner if now[key] != trained[key]}


def evaluate_checkpoint(
    path: Path, device: str | None = None, reporter: Reporter | None = None, **asked: Any
) -> Scores:
    """Evaluate a checkpoint, or a run's newest; see `open_checkpoint`."""
    return open_checkpoint(path, device, reporter=reporter, **asked).scores(reporter)


def configured(loaded: Loaded, path: Path, **asked: Any) -> EvaluationConfig:
    """The evaluation in the run's current config.yaml, or else the one in its checkpoint.

    asked: see `open_checkpoint`.
    """
    tree = loaded.config
    if (path / "checkpoints").is_dir() and (path / "config.yaml").is_file():
        tree = read_yaml(path / "config.yaml")  # a finished run may have been given other targets
    declared = tree.get("evaluation") or {}
    require(isinstance(declared, dict), f"{path}: config.yaml: evaluation must hold keys")
    facts = {"env_id": loaded.facts.env_id, "targets": list(loaded.facts.targets) or None}
    trees = [facts, {key: value for key, value in declared.items() if value is not None}]
    if load_config(EvaluationConfig, *trees).episodes == 0:  # trained without an evaluation
        trees.append({"episodes": EvaluationConfig.episodes})
    given = {key: value for key, value in asked.items() if value is not None}
    if isinstance(given.get("targets"), tuple):
        given["targets"] = list(given["targets"])
    return load_config(EvaluationConfig, *trees, given)


def compute_device(name: str | None) -> torch.device:
    """The named device, by default CUDA where available; UserError when it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.ones(1, device=device).tolist()
    except Exception as error:  # the type of the error depends on the backend
        raise UserError(f"--device {name} cannot be used here: {error_text(error, 100)}") from error
    return device
