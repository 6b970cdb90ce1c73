"""Scores of a checkpoint, from its own files alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from decision_seq import checkpoint
from decision_seq.config import load, read_yaml, require
from decision_seq.envs import environment_notes, obstacle
from decision_seq.evaluate.protocol import Evaluation, EvaluationConfig
from decision_seq.targets import Target
from decision_seq.types import Reporter, Scores, UserError


def evaluate_checkpoint(
    path: Path,
    targets: Sequence[Target] | None = None,
    episodes: int | None = None,
    seed: int | None = None,
    env_id: str | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
    **more: Any,
) -> Scores:
    """Roll out a checkpoint, or a run's newest, as its run was configured unless asked otherwise.

    more: other keys of `EvaluationConfig`.
    """
    loaded = checkpoint.load(path, _device(device))
    config = _configured(loaded, path)
    given = {"targets": targets, "episodes": episodes, "seed": seed, "env_id": env_id, **more}
    given = {key: value for key, value in given.items() if value is not None}
    if targets is not None:
        given["targets"] = tuple(targets)
    if config.episodes == 0 and episodes is None:  # trained without an evaluation
        given["episodes"] = EvaluationConfig.episodes
    config = dataclasses.replace(config, **given)
    facts = loaded.facts
    if config.env_id is None:
        reason = obstacle(None, facts.family) or "it names none"
        raise UserError(f"{path} cannot be rolled out: {reason}; give an environment with --env")
    require(config.episodes >= 1, f"{config.episodes} episodes asked for; at least 1 is needed")
    evaluation = Evaluation.of(
        config,
        loaded.conditioning,
        loaded.policy_config.context_length,
        facts.reference_scores,
        facts.return_percentiles,
    )
    scores, rate = evaluation.scores([evaluation.roll(loaded.policy, reporter=reporter)])
    return Scores(
        dataset=facts.dataset,
        source=facts.source,
        env_id=config.env_id,
        checkpoint=str(loaded.path),
        targets=scores,
        notes=environment_notes(config.env_id),
        env_steps_per_second=rate,
    )


def _configured(loaded: checkpoint.Loaded, path: Path) -> EvaluationConfig:
    """The evaluation that the run declares now, or the one its checkpoint was made under."""
    tree = loaded.config
    if (path / "checkpoints").is_dir() and (path / "config.yaml").is_file():
        tree = read_yaml(path / "config.yaml")  # a finished run may have been given other targets
    declared = tree.get("evaluation") or {}
    facts = {"env_id": loaded.facts.env_id, "targets": list(loaded.facts.targets)}
    return load(EvaluationConfig, facts, {k: v for k, v in declared.items() if v is not None})


def _device(name: str | None) -> torch.device:
    """The device asked for, by default CUDA where it is; UserError when it cannot compute."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.ones(1, device=device).tolist()
    except Exception as error:  # every backend refuses in its own way
        first = " ".join(str(error).split())[:100]
        raise UserError(f"--device {name} cannot be used here: {first}") from error
    return device
