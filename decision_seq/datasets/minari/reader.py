"""Reader of Minari datasets, through Minari itself, in all its formats (HDF5, Arrow, Parquet).

A dataset is a folder with `data/metadata.json` and the episodes beside it. All T + 1 observations
of an episode are stored. `spaces.py` describes how spaces become arrays. The store's header holds
the order of a Dict space's entries (`source.observation_keys`) and the author's reference scores
(`reference_scores`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import envs
from decision_seq.datasets.minari import spaces
from decision_seq.datasets.minari.files import (
    environment_id,
    environment_spec,
    named,
    own_facts,
    read_metadata,
    registered,
    require_whole,
    told_of,
)
from decision_seq.datasets.store import EpisodeStore, StoreWriter, source_files
from decision_seq.types import Episode, Reporter, UserError

EPISODES_AT_ONCE = 256  # Minari's Arrow reader opens a file for every requested episode
# Tasks whose Gymnasium environments have D4RL's observations, so that its reference scores apply
# (`envs.environment_notes` lists the changes in -v5). Minari's mazes, kitchen and hands have other
# layouts.
SAME_TASK = ("hopper", "halfcheetah", "walker2d", "reacher2d")


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read the dataset in the folder `path` into a store at `output`."""
    reporter = reporter or Reporter()
    metadata = read_metadata(path)
    own = own_facts(path, metadata)
    spec = environment_spec(path, metadata)
    require_whole(path, metadata)
    dataset = _open(path, metadata, spec)
    with named(path), StoreWriter(output) as writer:
        spaces.require_known(dataset.observation_space, images=bool(own))
        acted = envs.ActionSpace.of(dataset.action_space, "the data's environment")
        total = metadata["total_steps"]
        with reporter.bar(f"read {metadata['dataset_id']}", "steps", total) as bar:
            within = 0  # steps flagged as an end before the last of their episode
            for raw in _episodes(dataset, path, metadata["total_episodes"]):
                episode, early = _episode(
                    raw, dataset, acted, repeated=own.get("final") == "repeated"
                )
                writer.append(episode)
                within += early
                bar.update(len(episode))
        if sum(writer.lengths) != total:
            raise UserError(
                f"{path} holds {sum(writer.lengths)} transitions, its metadata say {total}; it is"
                " cut short, fetch it again"
            )
        if within:
            reporter.say(f"{path.name}: {within} steps are flagged as ends within their episodes")
        source = _source(path, metadata, own, spec)
        source["observation_keys"] = spaces.keys(dataset.observation_space)
        return writer.finish(
            metadata["dataset_id"],
            source,
            **_task(own, spec, writer),
            transitions_in=total,
            has_timeouts=True,
            reference_scores=_reference_scores(metadata),
            **acted.header_entries,
        )


def _open(path: Path, metadata: dict[str, Any], spec: dict[str, Any] | None) -> Any:
    """The MinariDataset.

    If the metadata lack a space, Minari makes the environment, which runs its entry point. This is
    allowed only for an environment that is registered here; UserError otherwise.
    """
    import minari

    lacking = [key for key in ("observation_space", "action_space") if key not in metadata]
    if lacking:
        known = registered(spec["id"]) if spec else None
        if known is None or spec is None or known.entry_point != spec.get("entry_point"):
            name = spec["id"] if spec else "no environment"
            raise UserError(
                f"{path}: the metadata lack {lacking[0]}, and their environment ({name}) is not"
                " registered with Gymnasium here; install the package it belongs to"
            )
    with told_of(path):
        return minari.MinariDataset(path / "data")


def _episodes(dataset: Any, path: Path, count: int) -> Iterator[Any]:
    indices = iter(range(count))
    while block := list(islice(indices, EPISODES_AT_ONCE)):
        with told_of(path):
            episodes = iter(dataset.iterate_episodes(block))
        while True:
            with told_of(path):
                episode = next(episodes, None)
            if episode is None:
                break
            yield episode


def _episode(
    raw: Any, dataset: Any, acted: envs.ActionSpace, repeated: bool
) -> tuple[Episode, int]:
    """The episode, and the number of its steps before the last that are flagged as an end.

    repeated: the last observation repeats the one before, because the real one was unknown.
    """
    rewards = np.atleast_1d(raw.rewards)
    rewards = rewards.reshape(-1) if rewards.size == len(rewards) else rewards  # of shape (T, 1)
    steps = len(rewards)
    observations = spaces.observations(dataset.observation_space, raw.observations)
    flags = [np.asarray(values).reshape(-1) for values in (raw.terminations, raw.truncations)]
    for name, values in zip(("terminations", "truncations"), flags, strict=True):
        if len(values) != steps or not np.isin(values, (0, 1)).all():
            raise UserError(f"episode {raw.id}: {name} are not one flag a step")
    if steps == 0 or len(observations) != steps + 1:
        raise UserError(
            f"episode {raw.id}: {len(observations)} observations of {steps} steps; one more than"
            " the steps is needed"
        )
    terminated, truncated = (values.astype(bool) for values in flags)
    episode = Episode(
        observations[:steps] if repeated else observations,
        spaces.actions(acted, raw.actions),
        rewards,
        bool(terminated[-1]),
        bool(truncated[-1]),
    )
    return episode, int((terminated | truncated)[:-1].sum())


def _task(own: dict[str, Any], spec: dict[str, Any] | None, writer: StoreWriter) -> dict[str, Any]:
    """The entries of the store's header on the task."""
    env_id = environment_id(spec) if spec else None
    found = envs.facts_by_name(spec["id"]) if spec else None
    sizes = tuple(
        int(np.prod(c.row[0]))
        for c in (writer.columns["observations"], writer.columns["actions"])
        if c.row
    )
    same = found and found[0] in SAME_TASK and found[1].sizes == sizes
    return {
        "env_id": own.get("env_id") or env_id,
        "family": own["family"] if "family" in own else found[0] if found and same else None,
        "max_episode_steps": spec.get("max_episode_steps")
        if spec
        else own.get("max_episode_steps"),
    }


def _reference_scores(metadata: dict[str, Any]) -> list[float] | None:
    """[random, expert] by the dataset's author; UserError unless they are two different numbers."""
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        return None
    numbers = all(type(score) in (int, float) and abs(score) < 1e300 for score in (low, high))
    if not numbers or low == high:
        raise UserError(f"ref_min_score {low!r} and ref_max_score {high!r} are no two numbers")
    return [float(low), float(high)]


def _source(
    path: Path, metadata: dict[str, Any], own: dict[str, Any], spec: dict[str, Any] | None
) -> dict[str, Any]:
    files = sorted(file for file in (path / "data").rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix()
        digest.update(f"{name} {source_files.sha256(file)}\n".encode())
    description = f"Minari dataset {metadata['dataset_id']}, sha256 {digest.hexdigest()[:12]}"
    if own.get("description"):
        description += f", written from: {own['description']}"
    return {
        "kind": "minari",
        "description": description,
        "path": str(path.resolve()),
        "sha256": digest.hexdigest(),
        "minari_version": metadata["minari_version"],
        "wrappers": [str(w.get("name")) for w in (spec or {}).get("additional_wrappers") or []],
    }
