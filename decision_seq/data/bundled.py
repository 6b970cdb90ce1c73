"""Datasets that can be had with no network: small behaviour policies, rolled out on first use.

The policies were trained by `experiments/behaviour/train_behaviour.py`; `data/README.md` in the
repository lists how long, and what they return; in Key-to-Door random walks do. A bundled
collection is made by us in Gymnasium's environments and our own: it is never D4RL's data, and says
so wherever it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from decision_seq import envs
from decision_seq.data import atari_bundled
from decision_seq.data.behaviour import Actor, GaussianPolicy, UniformPolicy, load_actor
from decision_seq.data.collection import COLLECTOR, Size, collect
from decision_seq.data.identity import sha256
from decision_seq.data.store import EpisodeStore
from decision_seq.envs.atari_scores import ATARI
from decision_seq.types import Reporter, UserError

DEFAULT_SIZE = Size(200_000)
POLICIES = Path(__file__).parent / "behaviours"
# The environments that are ours -> the files of `envs` that decide what they do.
OUR_FILES = {"Reacher2d-v0": "reacher2d.[px]*", "KeyToDoor-v0": "key_to_door.py"}


@dataclass(frozen=True)
class Bundled:
    """A dataset's recipe: who acts, in which environment; what the default collection holds.

    parts: policy files in `POLICIES`, or `uniform`; each collects an equal share, in this order.
    size: of the default collection.
    """

    env_id: str
    parts: tuple[str, ...]
    episodes: int
    return_mean: float
    return_std: float = 0.0
    return_max: float = 0.0
    size: Size = DEFAULT_SIZE

    def actors(self) -> list[Actor]:
        return [
            UniformPolicy() if part == "uniform" else GaussianPolicy.load(POLICIES / part)
            for part in self.parts
        ]


@cache
def bundled() -> dict[str, Bundled]:
    """Every bundled dataset by its name, from `behaviours/datasets.json`."""
    table = json.loads((POLICIES / "datasets.json").read_text())
    return {name: _recipe(**facts) for name, facts in table.items()}


def _recipe(parts: list[str], size: dict[str, Any] | None = None, **facts: Any) -> Bundled:
    return Bundled(parts=tuple(parts), size=Size(**size) if size else DEFAULT_SIZE, **facts)


def recipe(name: str) -> Bundled:
    """UserError for an unknown name."""
    if name not in bundled():
        raise UserError(f"bundled/{name} does not exist; there are {', '.join(sorted(bundled()))}")
    return bundled()[name]


def store_name(name: str, size: Size, seed: int) -> str:
    """A folder's name that changes with whatever the collected bytes depend on."""
    found = recipe(name)
    identity = [
        COLLECTOR,
        found.env_id,
        [actor.description for actor in found.actors()],
        version("gymnasium"),
        version("mujoco"),
        version("numpy"),
        version("scipy"),
        *map(sha256, _our_files(found.env_id)),
    ]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    return f"bundled-{name}-{size.count}{size.unit}s-seed{seed}-{key}"


def _our_files(env_id: str) -> list[Path]:
    folder, pattern = Path(envs.__file__).parent, OUR_FILES.get(env_id)
    return sorted(folder.glob(pattern)) if pattern else []


def collect_recipe(
    name: str,
    found: Bundled,
    output: Path,
    size: Size | None = None,
    seed: int = 0,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> EpisodeStore:
    """Collect by a recipe, in the table or not, into a store at `output`.

    size: None for the recipe's own.
    """
    actors, size = found.actors(), size or found.size
    source = {
        "kind": "bundled",
        "description": (
            f"bundled collection {name} ({found.env_id}, {_named(actors)}, seed {seed};"
            " not D4RL's data)"
        ),
        "policies": [actor.description for actor in actors],
    }
    return collect(actors, found.env_id, size, seed, output, name, source, workers, reporter)


def _named(actors: Sequence[Actor]) -> str:
    if len(actors) == 1:
        return actors[0].description
    return f"{len(actors)} policies, the last {actors[-1].description}"


def collect_named(
    name: str | None,
    policy: str | None,
    env_id: str | None,
    size: Size | None,
    seed: int,
    output: Path,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> EpisodeStore:
    """`data collect`: a bundled dataset by name, or any policy file in any environment.

    size: None for the bundled dataset's own, or `DEFAULT_SIZE`. UserError when `output` exists:
    nothing is overwritten.
    """
    if output.exists():
        raise UserError(f"{output} exists; name another --output")
    if name is not None and name.startswith(ATARI):
        name = name.removeprefix(ATARI)
        size = size or atari_bundled.DEFAULT_SIZE
        return atari_bundled.collect(name, output, size, seed, workers, reporter)
    if name is not None:
        return collect_recipe(name, recipe(name), output, size, seed, workers, reporter)
    assert policy is not None
    assert env_id is not None
    actor, size = load_actor(policy), size or DEFAULT_SIZE
    source: dict[str, Any] = {
        "kind": "collected",
        "description": f"collected here ({env_id}, {actor.description}, seed {seed})",
    }
    return collect([actor], env_id, size, seed, output, output.name, source, workers, reporter)
