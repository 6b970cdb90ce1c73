"""How far a run has come: read from its folder, of which nothing else is kept anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from decision_seq import checkpoint
from decision_seq.config import load, read_yaml, require
from decision_seq.experiment import check_same_run, differing_keys
from decision_seq.problem import Config, Problem
from decision_seq.run_folder import is_run

Progress = Literal["new", "begun", "finished"]


def progress(folder: Path, problem: Problem) -> Progress:
    """UserError where the folder holds another run, or one that cannot be read."""
    if not is_run(folder):
        return "new"
    check_same_run(folder, problem)
    return "finished" if is_scored(folder, problem.config) else "begun"


def likely_progress(folder: Path, config: Config) -> Progress:
    """The same without a look at the data, which fill in what the configuration leaves open."""
    if not is_run(folder):
        return "new"
    saved = load(Config, read_yaml(folder / "config.yaml"))
    differing = [
        f"{key} ({before} -> {now})"
        for key, (before, now) in differing_keys(saved, config).items()
        if not (key.startswith("conditioning.") and now is None)
    ]
    require(not differing, f"{folder} holds a run with another {', '.join(differing)}")
    asked = config.evaluation
    worded = any(isinstance(target, str) for target in asked.targets or ())
    if worded or not config.conditioning.asks:  # the data tell, or nothing is asked for
        config = replace(config, evaluation=replace(asked, targets=None))
    return "finished" if is_scored(folder, config) else "begun"


def is_scored(folder: Path, config: Config) -> bool:
    """Whether the last update's checkpoint has been rolled out as the configuration asks."""
    asked, last = config.evaluation, f"{checkpoint.PREFIX}{config.train.steps:08d}"
    if asked.episodes == 0:
        return (folder / "checkpoints" / last).is_dir()
    try:
        scores = json.loads((folder / "scores.json").read_text())
        targets = scores["targets"]
        return (
            Path(scores["checkpoint"]).name == last
            and asked.env_id in (None, scores["env_id"])
            and asked.targets in (None, tuple(target["target"] for target in targets))
            and all(t["episodes"] == asked.episodes for t in targets)
            and all(t["seed"] == asked.seed for t in targets)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # absent or damaged: `train --resume` writes it again


def last_line(log: Path) -> str:
    """What a run said last; a progress bar counts line by line."""
    try:
        lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
