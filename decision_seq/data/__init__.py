"""Datasets by name: every source becomes an EpisodeStore, once, and training opens nothing else.

| name | what is opened |
|---|---|
| `hopper-medium`, `-v2` | D4RL's file where it is at hand, else the bundled collection |
| `d4rl/hopper-medium-v2` | D4RL's file, or an error that says where to put it |
| `bundled/hopper-medium` | the bundled collection, made on first use |
| `path/to/file.hdf5` | that file, in D4RL's layout |
| `path/to/store` | a store that `data collect` wrote |
| `A+B` | the episodes of A, then those of B |

Stores are kept in `$DECISION_SEQ_DATA`, by default `~/.cache/decision_seq`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from decision_seq import envs
from decision_seq.data import bundled, d4rl
from decision_seq.data.store import EpisodeStore
from decision_seq.data.writer import StoreWriter
from decision_seq.types import Episode, Reporter, UserError

HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class Request:
    """How a dataset is to be opened.

    steps, seed, workers: size, seed and processes of a bundled collection; reporter: where
    progress is shown.
    """

    steps: int = bundled.DEFAULT_STEPS
    seed: int = 0
    workers: int | None = None
    reporter: Reporter = field(default_factory=Reporter)


def store_root() -> Path:
    """Where stores are kept."""
    configured = os.environ.get("DECISION_SEQ_DATA")
    return Path(configured) if configured else Path.home() / ".cache" / "decision_seq"


def open_dataset(name: str, request: Request | None = None) -> EpisodeStore:
    """Open a dataset by name or path; UserError names an unknown one and its nearest kin."""
    request = request or Request()
    if not name:
        raise UserError("the dataset's name is empty; `decision-seq data list` shows what there is")
    path = Path(name)
    if path.suffix in HDF5_SUFFIXES and ("+" not in name or path.exists()):
        return _open_hdf5(path, request)
    if path.is_dir():
        return EpisodeStore.open(path)
    if "+" in name:
        return _open_joined(name, request)
    for prefix, opener in SOURCES.items():
        if name.startswith(prefix + "/"):
            return opener(name.removeprefix(prefix + "/"), request)
    if d4rl.find_file(name) is not None:
        return _open_d4rl(name, request)
    if _unversioned(name) in bundled.BUNDLED:
        return _open_bundled(_unversioned(name), request)
    raise UserError(_unknown(name))


def known_names() -> list[str]:
    """Every name that can be opened here and now."""
    return [*bundled.BUNDLED, *(f"bundled/{name}" for name in bundled.BUNDLED)]


def describe_known() -> list[dict[str, str]]:
    """One row a dataset that can be opened here: what it is, and whether its store is made."""
    rows = []
    for name, recipe in bundled.BUNDLED.items():
        local = d4rl.find_file(name)
        if local is not None:
            rows.append(
                {"name": name, "source": f"D4RL file {local}", "environment": recipe.env_id}
            )
        stores = sorted(store_root().glob(f"bundled-{name}-*"))
        rows.append(
            {
                "name": f"bundled/{name}" if local else name,
                "source": "bundled collection (not D4RL's data)",
                "environment": recipe.env_id,
                "return": f"{recipe.return_mean:.0f}",
                "normalized": f"{envs.normalized_score(name, recipe.return_mean):.1f}",
                "here": "yes" if stores else "on first use",
            }
        )
    columns = ("name", "source", "environment", "return", "normalized", "here")
    return [{column: row.get(column, "-") for column in columns} for row in rows]


def _unversioned(name: str) -> str:
    """The bundled collections stand in for D4RL's v2 alone."""
    return name.removesuffix("-v2")


def _unknown(name: str) -> str:
    if "/" in name:
        return f"dataset {name!r}: no such file, folder or source ({', '.join(SOURCES)})"
    nearest = difflib.get_close_matches(name, known_names(), 3, 0.4) or known_names()
    hint = f"nearest known: {', '.join(nearest)}"
    if envs.facts_by_name(name):
        hint = f"put D4RL's HDF5 file in ~/.d4rl/datasets or give its path; {hint}"
    return f"unknown dataset {name!r}; {hint}"


def _open_hdf5(path: Path, request: Request) -> EpisodeStore:
    """The store made from this very file, or a new one when the file has changed."""
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    output = store_root() / f"{envs.canonical(path.name)}-{key}"
    if output.is_dir() and path.is_file():
        try:
            store = EpisodeStore.open(output)
        except UserError:
            return d4rl.read(path, output)  # cut short: rebuilt from its source
        source, now = store.header["source"], path.stat()
        if (source.get("bytes"), source.get("modified_ns")) == (now.st_size, now.st_mtime_ns):
            return store
    return d4rl.read(path, output)


def _open_d4rl(name: str, request: Request) -> EpisodeStore:
    path = d4rl.find_file(name)
    if path is None:
        raise UserError(
            f"d4rl/{name} is not at hand; put its HDF5 file in ~/.d4rl/datasets or"
            " $D4RL_DATASET_DIR"
        )
    return _open_hdf5(path, request)


def _open_bundled(name: str, request: Request) -> EpisodeStore:
    if name not in bundled.BUNDLED:
        raise UserError(f"unknown dataset 'bundled/{name}'; there are {', '.join(bundled.BUNDLED)}")
    path = store_root() / f"bundled-{name}-{request.steps}-seed{request.seed}"
    if path.is_dir():
        try:
            return EpisodeStore.open(path)
        except UserError:
            shutil.rmtree(path)  # cut short: collected again, from the same seed
    return bundled.open_bundled(
        name, path, request.steps, request.seed, request.workers, request.reporter
    )


def _open_joined(name: str, request: Request) -> EpisodeStore:
    """The episodes of several datasets, one after another, in one store."""
    parts = [open_dataset(part, request) for part in name.split("+")]
    shapes = {(p.columns["observations"].shape[1:], p.columns["actions"].shape[1:]) for p in parts}
    if len(shapes) > 1:
        raise UserError(f"{name}: the parts differ in observation or action size ({shapes})")
    identity = json.dumps([part.header for part in parts], sort_keys=True)
    output = store_root() / f"joined-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    with contextlib.suppress(UserError):  # absent or cut short: joined anew
        return EpisodeStore.open(output)
    with StoreWriter(output) as writer:
        final = all("final_observations" in part.columns for part in parts)
        for part in parts:
            for episode in part.episodes():
                writer.append(episode if final else _without_final_observation(episode))
        first = parts[0].header
        return writer.finish(
            "+".join(part.name for part in parts),
            {
                "kind": "joined",
                "description": " + ".join(part.source for part in parts),
                "parts": [part.header["source"] for part in parts],
            },
            env_id=first["env_id"],
            family=first["family"],
            max_episode_steps=first["max_episode_steps"],
            transitions_in=sum(part.header["transitions_in"] for part in parts),
            has_timeouts=all(part.header["has_timeouts"] for part in parts),
        )


def _without_final_observation(episode: Episode) -> Episode:
    return replace(episode, observations=episode.observations[: len(episode)])


SOURCES: dict[str, Callable[[str, Request], EpisodeStore]] = {
    "d4rl": _open_d4rl,
    "bundled": _open_bundled,
}
