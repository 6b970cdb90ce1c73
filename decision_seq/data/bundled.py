"""Datasets that can be had with no network: small behaviour policies, rolled out on first use.

The policies were trained by `experiments/behaviour/train_behaviour.py`; `data/README.md` in the
repository lists how long, and what they return. A bundled collection is made by us in Gymnasium's
environments: it is never D4RL's data, and says so wherever it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decision_seq.data.behaviour import GaussianPolicy, collect, load_actor
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Reporter, UserError

DEFAULT_STEPS = 200_000
POLICIES = Path(__file__).parent / "behaviours"


@dataclass(frozen=True)
class Bundled:
    """A dataset's recipe: which policy, in which environment, what it returns."""

    policy: str
    env_id: str
    return_mean: float  # of sampled actions over the default collection


BUNDLED: dict[str, Bundled] = {
    "hopper-medium": Bundled("hopper-medium.safetensors", "Hopper-v4", 1478.3),
}


def open_bundled(
    name: str,
    output: Path,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    workers: int | None = None,
    reporter: Reporter | None = None,
    episodes: int | None = None,
) -> EpisodeStore:
    """Collect `name` into a store at `output`. UserError for an unknown name."""
    if name not in BUNDLED:
        raise UserError(f"bundled/{name} does not exist; there are {', '.join(sorted(BUNDLED))}")
    recipe = BUNDLED[name]
    actor = GaussianPolicy.load(POLICIES / recipe.policy)
    source = {
        "kind": "bundled",
        "description": (
            f"bundled collection ({recipe.env_id}, {actor.description}, seed {seed};"
            " not D4RL's data)"
        ),
        "policy": recipe.policy,
    }
    return collect(
        actor, recipe.env_id, steps, seed, output, name, source, workers, reporter, episodes
    )


def collect_named(
    name: str | None,
    policy: str | None,
    env_id: str | None,
    steps: int,
    seed: int,
    output: Path,
    workers: int | None = None,
    reporter: Reporter | None = None,
    episodes: int | None = None,
) -> EpisodeStore:
    """`data collect`: a bundled dataset by name, or any policy file in any environment.

    UserError when `output` exists: nothing is overwritten.
    """
    if output.exists():
        raise UserError(f"{output} exists; name another --output")
    if name is not None:
        return open_bundled(name, output, steps, seed, workers, reporter, episodes)
    assert policy is not None
    assert env_id is not None
    actor = load_actor(policy)
    source = {
        "kind": "collected",
        "description": f"collected here ({env_id}, {actor.description}, seed {seed})",
    }
    return collect(
        actor, env_id, steps, seed, output, output.name, source, workers, reporter, episodes
    )
