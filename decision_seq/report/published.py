"""Numbers that others published, each with what must be known to read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("published")


@dataclass(frozen=True)
class Published:
    """A method's scores by one publication, normalized x100 unless `unit` says otherwise.

    by: who measured it; protocol: `last` checkpoint, `best evaluation` during training, `best of
    six targets`, or `not said`; seeds: None where it is not said; spread: what ± means.
    verified: False where the number was taken from memory or second hand and still has to be
    looked up. comparable: False where the data or the unit are not those of the datasets' names.
    """

    method: str
    by: str
    source: str
    protocol: str
    data: str
    environment: str
    scores: dict[str, tuple[float, float | None]]
    seeds: int | None = None
    spread: str = "not said"
    unit: str = "normalized"
    verified: bool = True
    comparable: bool = True
    caveats: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        doubt = "" if self.verified else " (UNVERIFIED)"
        apart = "" if self.comparable else " (not comparable)"
        return f"{self.method}, {self.by}{doubt}{apart}"


@cache
def published() -> tuple[Published, ...]:
    """Everything in `published/*.yaml`, in the files' order."""
    return tuple(
        _entry(entry)
        for path in sorted(FOLDER.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text())["entries"]
    )


def _entry(tree: dict[str, Any]) -> Published:
    scores = {
        name: (float(cell[0]), float(cell[1])) if isinstance(cell, list) else (float(cell), None)
        for name, cell in tree["scores"].items()
    }
    return Published(**{**tree, "scores": scores, "caveats": tuple(tree.get("caveats", ()))})


def task_name(dataset: str) -> str:
    """The name the literature has for a dataset of ours: source and version are taken away.

    `d4rl/hopper-medium-v2`, `minari/mujoco/hopper/medium-v0`, `x/hopper_medium-v2.hdf5` ->
    `hopper-medium`.
    """
    name = dataset.lower().removesuffix(".hdf5").replace("_", "-")
    name = re.sub(r"^minari/(?:mujoco|d4rl)/", "", name)
    parts = name.split("/")
    short = "-".join(parts) if dataset.startswith("minari/") else parts[-1]
    return re.sub(r"-v\d+$", "", short)
