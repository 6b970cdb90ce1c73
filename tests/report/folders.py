"""Run folders as written by `train`, made without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from decision_seq.evaluation import score
from decision_seq.types import Scores

BUNDLED = "bundled collection hopper-medium (Hopper-v4, seed 0; not D4RL's data)"
D4RL = "D4RL-layout file hopper_medium-v2.hdf5, sha256 5bdf1bc4a713"  # as D4RL published it
HOPPER = (-20.272305, 3234.3)


def write_run(
    folder: Path,
    seed: int = 0,
    mean: float = 1500.0,
    dataset: str = "d4rl/hopper-medium-v2",
    source: str = D4RL,
    targets: Sequence[float | None] = (3600.0, 1800.0),
    episodes: int = 4,
    policy: dict[str, Any] | None = None,
    reference: tuple[float, float] | None = HOPPER,
    env_id: str = "Hopper-v4",
    precision: str = "fp32",
    steps: int = 100,
    evaluations: int = 4,
    more: dict[str, Any] | None = None,
    timed: bool = True,
) -> Path:
    """Write a finished run whose returns scatter around `mean`, lower at later targets.

    timed: whether metrics hold the wall-clock, half a second an update.
    """
    rng = np.random.default_rng([seed, int(abs(mean))])
    level = mean + 60 * rng.normal()

    def evaluated(share: float) -> list[dict[str, Any]]:
        found = []
        for number, target in enumerate(targets):
            returns = share * level * 0.9**number + 40 * rng.normal(size=episodes)
            made = score(target or 0.0, returns, np.full(episodes, 100), 10_000, reference)
            found.append({**asdict(made), "target": target})
        return found

    folder.mkdir(parents=True)
    protocol = {"env_id": env_id, "targets": list(targets), "episodes": episodes, "seed": 10_000}
    protocol |= {"precision": precision}
    config = {
        "dataset": dataset,
        "seed": seed,
        "policy": policy or {"name": "dt", "context_length": 20},
        "train": {"steps": steps, "log_every": 10},
        "evaluation": protocol,
        **(more or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    records = []
    for number in range(evaluations):
        share = (number + 1) / evaluations
        step = int(steps * share)
        records.append({"step": step, "protocol": protocol, "targets": evaluated(share)})
    last = records[-1]["targets"] if records else evaluated(1.0)
    lines(folder / "evaluations.jsonl", records)
    losses = [
        {"step": step, "loss": float(np.exp(-step / steps + 0.05 * rng.normal()))}
        | ({"seconds": 0.5 * step} if timed else {})
        for step in range(steps // 20, steps + 1, max(1, steps // 20))
    ]
    lines(folder / "metrics.jsonl", losses)
    scores = asdict(
        Scores(
            dataset, source, env_id, f"{folder}/checkpoints/step-{steps:08d}", [], ["mujoco 4.0.0"]
        )
    )
    (folder / "scores.json").write_text(json.dumps({**scores, "targets": last}))
    provenance = {"commit": "0123456789abcdef", "data": {"episodes": 9, "transitions": 3000}}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
