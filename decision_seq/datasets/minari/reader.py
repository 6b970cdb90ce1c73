"""Reader of Minari datasets in all their formats (HDF5, Arrow, Parquet).

A dataset is a folder with `data/metadata.json` and the episodes beside it. All T + 1 observations
of an episode are stored. `envs.observations` describes how they become arrays. The store's header
holds the order of a Dict space's entries (`source.observation_keys`) and the author's reference
scores (`reference_scores`). Nothing that the metadata name is imported or called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
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
    require_whole,
    told_of,
)
from decision_seq.datasets.minari.storage import RawEpisode, holds_jpeg, open_episodes
from decision_seq.datasets.store import EpisodeStore, StoreWriter, source_files
from decision_seq.envs.observations import Vectors, keys, numbers
from decision_seq.types import Episode, Reporter, UserError

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
    with told_of(path):
        files = open_episodes(path, metadata)
    with closing(files), named(path), StoreWriter(output) as writer:
        with told_of(path):
            found = spaces.of_dataset(metadata, environment_id(spec) if spec else None, files)
        layout = Vectors(found.observations)
        acted = envs.ActionSpace.of(found.actions, "the data's environment")
        if layout.left_out:
            left = ", ".join(layout.left_out)
            reporter.say(f"{path.name}: the texts of its observations are left out ({left})")
        if files.jpeg and holds_jpeg(found.observations):
            reporter.say(f"{path.name}: JPEG changed its images; the environment's differ a little")
        total = metadata["total_steps"]
        with reporter.bar(f"read {metadata['dataset_id']}", "steps", total) as bar:
            within = 0  # steps flagged as an end before the last of their episode
            raw_episodes = files.episodes(
                metadata["total_episodes"], found.observations, found.actions
            )
            for raw in _told(raw_episodes, path):
                repeated = own.get("final") == "repeated"
                episode, early = _episode(raw, layout, acted, repeated)
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
        source["observation_keys"] = keys(found.observations)
        return writer.finish(
            metadata["dataset_id"],
            source,
            **_task(own, spec, writer),
            transitions_in=total,
            has_timeouts=True,
            reference_scores=_reference_scores(metadata),
            **acted.header_entries,
        )


def _told(episodes: Iterator[RawEpisode], path: Path) -> Iterator[RawEpisode]:
    """The episodes; errors of h5py, pyarrow and Pillow become a UserError."""
    while True:
        with told_of(path):
            episode = next(episodes, None)
        if episode is None:
            return
        yield episode


def _episode(
    raw: RawEpisode, layout: Vectors, acted: envs.ActionSpace, repeated: bool
) -> tuple[Episode, int]:
    """The episode, and the number of its steps before the last that are flagged as an end.

    repeated: the last observation repeats the one before, because the real one was unknown.
    """
    rewards = np.atleast_1d(raw.rewards)
    rewards = rewards.reshape(-1) if rewards.size == len(rewards) else rewards  # of shape (T, 1)
    steps = len(rewards)
    observations = layout.rows(raw.observations)
    if layout.whole and layout.leaves[0].shape:  # the store keeps the shape and opens as vectors
        observations = observations.reshape(-1, *layout.leaves[0].shape)
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
        acted.from_data(numbers(raw.actions, "actions"), "actions"),
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
    sound = all(type(score) in (int, float) and abs(score) < 1e300 for score in (low, high))
    if not sound or low == high:
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
