"""Progress of a run, read from its folder; it is recorded nowhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from decision_seq import checkpoint
from decision_seq.config import load, read_yaml, require
from decision_seq.evaluation.targets import resolve
from decision_seq.reading import Unreadable, open_file, read_json
from decision_seq.runs.experiment import check_same_run, differing_keys
from decision_seq.runs.folder import is_run
from decision_seq.runs.resolve import Config, Problem

LOG_END = 1 << 16  # bytes of a log that are searched for its last line
Progress = Literal["new", "begun", "finished"]


def progress(folder: Path, problem: Problem) -> Progress:
    """The progress of a run; UserError if its folder holds another run or an unreadable one."""
    if not is_run(folder):
        return "new"
    check_same_run(folder, problem)
    return "finished" if is_scored(folder, problem.config) else "begun"


def likely_progress(folder: Path, config: Config) -> Progress:
    """As `progress`, without opening the data, which would complete the configuration."""
    if not is_run(folder):
        return "new"
    saved = load(Config, read_yaml(folder / "config.yaml"))
    differing = [
        f"{key} ({before} -> {now})"
        for key, (before, now) in differing_keys(saved, config).items()
        if not (key.startswith("conditioning.") and now is None)
        and not (key == "policy.context_length" and before < now)  # cut to the longest episode
    ]
    require(not differing, f"{folder} holds a run with another {', '.join(differing)}")
    protocol = config.evaluation
    worded = any(isinstance(target, str) for target in protocol.targets or ())
    if protocol.targets and not worded:  # equal ones are rolled out once
        config = replace(
            config, evaluation=replace(protocol, targets=resolve(protocol.targets, None))
        )
    if worded or not config.conditioning.asks:  # targets depend on the data, or there are none
        config = replace(config, evaluation=replace(protocol, targets=None))
    return "finished" if is_scored(folder, config) else "begun"


def is_scored(folder: Path, config: Config) -> bool:
    """Whether the last checkpoint has been rolled out under the configuration's protocol."""
    protocol, last = config.evaluation, f"{checkpoint.PREFIX}{config.train.steps:08d}"
    if protocol.episodes == 0:
        return (folder / "checkpoints" / last).is_dir()
    try:
        scores = read_json(folder / "scores.json")
        targets = scores["targets"]
        return (
            Path(scores["checkpoint"]).name == last
            and protocol.env_id in (None, scores["env_id"])
            and protocol.targets in (None, tuple(target["target"] for target in targets))
            and all(t["episodes"] == protocol.episodes for t in targets)
            and all(t["seed"] == protocol.seed for t in targets)
        )
    except (Unreadable, KeyError, TypeError):
        return False  # absent or damaged: `train --resume` writes it again


def last_line(log: Path) -> str:
    """The last line of a run's log; each state of a progress bar counts as a line."""
    try:
        with open_file(log) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_END, 0))
            text = file.read(LOG_END).decode("utf-8", "replace")
    except (Unreadable, OSError):
        return ""
    lines = text.replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
