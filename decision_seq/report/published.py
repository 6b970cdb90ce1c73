"""Published scores, each with the facts that are needed to interpret it."""

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
    """A method's scores from one publication."""

    method: str
    """Name of the method."""
    by: str
    """Publication or program that measured it."""
    source: str
    """Reference to the table or file with the numbers."""
    protocol: str
    """`last` checkpoint, `best evaluation` during training, `best of six targets` or `not said`."""
    data: str
    """Data that the method was trained on."""
    environment: str
    """Environments that the method was evaluated in."""
    scores: dict[str, tuple[float, float | None]]
    """(Mean, spread) by task name; the spread is None where it is not said."""
    seeds: int | None = None
    """Number of training seeds; None where it is not said."""
    spread: str = "not said"
    """Meaning of the number after ±."""
    unit: str = "normalized"
    """Unit of the scores; `normalized` is x100."""
    verified: bool = True
    """False where a number was taken from memory or second hand and has to be looked up."""
    comparable: bool = True
    """False where the data or the unit are not those of the datasets' names."""
    caveats: tuple[str, ...] = field(default=())
    """Further facts that limit a comparison."""

    @property
    def title(self) -> str:
        doubt = "" if self.verified else " (UNVERIFIED)"
        apart = "" if self.comparable else " (not comparable)"
        return f"{self.method}, {self.by}{doubt}{apart}"


@cache
def published() -> tuple[Published, ...]:
    """All entries of `published/*.yaml`, in the files' order."""
    return tuple(
        _entry(entry)
        for path in sorted(FOLDER.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["entries"]
    )


def _entry(tree: dict[str, Any]) -> Published:
    scores = {
        name: (float(cell[0]), float(cell[1])) if isinstance(cell, list) else (float(cell), None)
        for name, cell in tree["scores"].items()
    }
    return Published(**{**tree, "scores": scores, "caveats": tuple(tree.get("caveats", ()))})


def task_name(dataset: str) -> str:
    """The name of a dataset in the literature: our name without source and version.

    `d4rl/hopper-medium-v2`, `minari/mujoco/hopper/medium-v0`, `x/hopper_medium-v2.hdf5` ->
    `hopper-medium`.
    """
    name = dataset.lower().removesuffix(".hdf5").replace("_", "-")
    name = re.sub(r"^minari/(?:mujoco|d4rl)/", "", name)
    parts = name.split("/")
    short = "-".join(parts) if dataset.startswith("minari/") else parts[-1]
    return re.sub(r"-v\d+$", "", short)
