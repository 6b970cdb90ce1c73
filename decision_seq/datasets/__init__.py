"""Datasets by name. Every source is converted to an EpisodeStore once; training opens only stores.

| name | what is opened |
|---|---|
| `hopper-medium`, `-v2` | D4RL's file, local or downloaded; failing both, the bundled collection |
| `d4rl/hopper-medium-v2` | D4RL's file, downloaded if it is not local |
| `bundled/hopper-medium` | the bundled collection, made on first use |
| `key-to-door-1k`, `-10k` | 1,000 or 10,000 random walks in Key-to-Door, made on first use |
| `minari/mujoco/hopper/medium-v0` | a Minari dataset, local or downloaded |
| `hub/REPO`, `hub/REPO:CONFIG` | trajectories in a dataset of the Hugging Face Hub |
| `path/to/file` | `.hdf5` in D4RL's layout, `.npz`, `.npy`, `.pkl`, `.pt`, `.parquet` |
| `atari/bundled-pong`, `-breakout` | games by scripted players, played on first use |
| `atari/Breakout` | local DQN-replay logs of the game |
| `path/to/folder` | a store, a Minari dataset, or a folder of `.parquet` files or DQN-replay logs |
| `A+B` | the episodes of A, then those of B |

Stores are saved in `$DECISION_SEQ_DATA`, by default `~/.cache/decision_seq`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decision_seq import envs
from decision_seq.config import save_text
from decision_seq.datasets import joining, other_layouts
from decision_seq.datasets.collected import bundled, bundled_atari
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.d4rl import reader as d4rl_reader
from decision_seq.datasets.dqn_replay import reader as replay
from decision_seq.datasets.dqn_replay import shards as replay_shards
from decision_seq.datasets.dqn_replay.draw import ReplayConfig
from decision_seq.datasets.fetching.download import Unreachable
from decision_seq.datasets.files import npz, pickles, torch_files
from decision_seq.datasets.hub import reader as hub_reader
from decision_seq.datasets.hub import remote as hub_remote
from decision_seq.datasets.minari import reader as minari_reader
from decision_seq.datasets.minari import remote as minari_remote
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.column import StoreDamaged, cannot_read
from decision_seq.datasets.store.root import store_root
from decision_seq.datasets.store.source_files import stamp, visible
from decision_seq.reading import Absent, Unreadable, open_file, read_json
from decision_seq.types import Reporter, UserError


@dataclass(frozen=True)
class Request:
    """Options for opening a dataset."""

    size: Size | None = None
    """Size of a bundled collection; None for the collection's own size."""
    seed: int = 0
    """Seed of a bundled collection."""
    workers: int | None = None
    """Processes that make a bundled collection; None for one per core."""
    reporter: Reporter = field(default_factory=Reporter)
    """Output for messages and progress bars."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Selection of transitions from DQN-replay's logs."""


Reader = Callable[[Path, Path, Reporter], EpisodeStore]  # (path, output, reporter) -> store

STAMP = "stamp.json"  # in a store's folder: the stamp of the file or folder it was made from

FILE_READERS: dict[str, Reader] = {
    ".hdf5": d4rl_reader.read,
    ".h5": d4rl_reader.read,
    ".npz": npz.read,
    ".pkl": pickles.read,
    ".pickle": pickles.read,
    ".npy": npz.read_npy,
    ".pt": torch_files.read,
    ".pth": torch_files.read,
    ".parquet": hub_reader.read,
}
# The first bytes of a file -> its reader, for files without a known suffix.
SIGNATURES: dict[bytes, Reader] = {
    b"\x89HDF\r\n\x1a\n": d4rl_reader.read,
    b"PK\x03\x04": npz.read,
    b"PAR1": hub_reader.read,
    b"\x80": pickles.read,
    b"\x93NUMPY": npz.read_npy,
}
# A file that identifies the kind of a folder -> the folder's reader, and the files it may read.
FOLDER_READERS: dict[str, tuple[Reader, str]] = {
    "data/metadata.json": (minari_reader.read, "data/**/*"),
    "**/*.parquet": (hub_reader.read, "**/*"),
    f"**/{replay_shards.MARKER}": (replay.read, "**/*.gz"),
}


def open_dataset(name: str, request: Request | None = None) -> EpisodeStore:
    """Open a dataset by name or path; UserError for an unknown name, with the nearest known."""
    request = request or Request()
    path = _path(name)
    if path is not None:
        return open_path(path, request)
    if not name or not name.isprintable():
        raise UserError(
            f"{name!r} is no dataset's name; `decision-seq data list` shows what there is"
        )
    if "+" in name:
        names = name.split("+")
        if not all(names):
            raise UserError(f"{name}: a part of it is empty; datasets are joined as A+B")
        return joining.join(name, [open_dataset(part, request) for part in names], store_root())
    for prefix, opener in SOURCES.items():
        if name.startswith(prefix + "/"):
            return opener(name.removeprefix(prefix + "/"), request)
    if Path(name).suffix.lower() in FILE_READERS:
        raise UserError(f"{name} does not exist")
    return _open_best(name, request)


def _path(name: str) -> Path | None:
    """The file or folder at the path `name`; None if there is none."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (ValueError, RuntimeError):  # a NUL, or the home of an unknown user
        return None


def open_path(path: Path, request: Request) -> EpisodeStore:
    """Open a store, or convert a file or folder to one; converts again after a change."""
    if path.is_dir() and (path / "header.json").exists():
        return EpisodeStore.open(path)
    reader, files = _reader(path)
    identity = os.fsencode(path.resolve())
    if reader is replay.read:  # the selection from the logs is part of the store's identity
        reader = functools.partial(replay.read, config=request.replay)
        identity += repr(request.replay).encode()
    key = hashlib.sha256(identity).hexdigest()[:12]
    # A file's name has 255 bytes at most, and a character may take four.
    short = os.fsencode(envs.canonical(path.name)[:80])[:240].decode("utf-8", "ignore")
    output = store_root() / f"{short}-{key}"
    now = stamp(path, files)
    existing = _reopen(output, request)
    if existing is None or _stored_stamp(output) != now:
        existing = reader(path, output, request.reporter)
        if stamp(path, files) != now:  # the data read may not be those of the file now
            shutil.rmtree(output)
            raise UserError(f"{path} changed while it was read; run again")
        save_text(output / STAMP, json.dumps(now))
    for note in existing.notes:
        request.reporter.say(f"{path.name}: {note}")
    return existing


def _reopen(output: Path, request: Request) -> EpisodeStore | None:
    """The store at `output`; None if there is none. A damaged store is removed."""
    if not output.is_dir():
        return None
    try:
        return EpisodeStore.open(output)
    except StoreDamaged as error:
        request.reporter.say(f"made again: {str(error).partition('; delete')[0]}")
    except UserError as error:
        if (output / "header.json").exists():  # sound, but it cannot be opened now
            raise
        request.reporter.say(f"made again: {error}")
    shutil.rmtree(output)  # safe: only this package writes to the store folder
    return None


def _stored_stamp(store: Path) -> object:
    """The stamp of the store's source; None if unknown."""
    try:
        return read_json(store / STAMP, within=store)
    except Unreadable as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error, Absent):
            raise cannot_read(store, STAMP, error.__cause__) from error
        return None


def _reader(path: Path) -> tuple[Reader, Sequence[Path] | None]:
    """The reader of the path, and the files to read if it is a folder."""
    if path.is_dir():
        for marker, (reader, pattern) in FOLDER_READERS.items():
            if visible(path, marker):
                return reader, visible(path, pattern)
        if all(visible(path, f"**/{name}") for name in other_layouts.SAVED_FILES):
            raise UserError(f"{path} {other_layouts.SAVED_TO_DISK}")
        raise UserError(
            f"{path} is no dataset: it holds no header.json (a store), no data/metadata.json"
            " (Minari), no .parquet file and no shard of DQN-replay"
        )
    by_suffix = FILE_READERS.get(path.suffix.lower())
    if by_suffix is not None:
        return by_suffix, None
    if path.is_file():
        with open_file(path) as file:
            start = file.read(8)
        for signature, reader in SIGNATURES.items():
            if start.startswith(signature):
                other = reader in (npz.read, pickles.read) and torch_files.is_one(path)
                return torch_files.read if other else reader, None
    raise UserError(f"{path} is of no known kind; there are {', '.join(FILE_READERS)} and folders")


def _open_best(name: str, request: Request) -> EpisodeStore:
    """Open `hopper-medium`: D4RL's file, local or downloaded, else the bundled collection."""
    collected = name.removesuffix("-v2")  # the bundled collections replace D4RL's v2 only
    stands_in = collected in bundled.bundled()
    if d4rl_reader.versioned(name) is None and not stands_in:
        raise UserError(_unknown(name))
    if d4rl_reader.versioned(name) is not None:
        try:
            return _open_d4rl(name, request)
        except Unreachable as error:
            if not stands_in:
                raise
            request.reporter.say(f"{name}: {error.reason}; the bundled collection is used instead")
    return _open_bundled(collected, request)


def _unknown(name: str) -> str:
    if "/" in name:
        return f"dataset {name!r}: no such file, folder or source ({', '.join(SOURCES)})"
    known = [*bundled.bundled(), *d4rl_reader.published()]
    nearest = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"nearest known: {', '.join(nearest)}; " if nearest else ""
    return f"unknown dataset {name!r}; {hint}`decision-seq data list` shows them all"


def _open_d4rl(name: str, request: Request) -> EpisodeStore:
    return open_path(
        d4rl_reader.find_file(name) or d4rl_reader.download(name, request.reporter), request
    )


def _open_bundled(name: str, request: Request) -> EpisodeStore:
    recipe = bundled.recipe(name)
    size = request.size or recipe.size
    output = store_root() / bundled.store_name(name, size, request.seed)
    return _reopen(output, request) or bundled.collect_recipe(
        name, recipe, output, size, request.seed, request.workers, request.reporter
    )


def _open_minari(name: str, request: Request) -> EpisodeStore:
    _require_name("minari", name, minari_remote.NAME, "mujoco/hopper/medium-v0")
    return open_path(
        minari_remote.open_remote(name, store_root() / "minari", request.reporter), request
    )


def _open_hub(name: str, request: Request) -> EpisodeStore:
    _require_name("hub", name, hub_remote.NAME, "OWNER/NAME or OWNER/NAME:CONFIG")
    return open_path(hub_remote.open_remote(name, store_root() / "hub", request.reporter), request)


def _open_atari(name: str, request: Request) -> EpisodeStore:
    if name.startswith("bundled-"):
        size = request.size or bundled_atari.DEFAULT_SIZE
        output = store_root() / bundled_atari.store_name(name, size, request.seed)
        return _reopen(output, request) or bundled_atari.collect(
            name, output, size, request.seed, request.workers, request.reporter
        )
    return open_path(replay.where(name, store_root()), request)


def _require_name(source: str, name: str, pattern: re.Pattern[str], example: str) -> None:
    """Raise UserError for an invalid name, such as one that leads out of the folder."""
    if not pattern.fullmatch(name):
        raise UserError(f"{source}/{name} is no name of a dataset; give one like {example}")


SOURCES: dict[str, Callable[[str, Request], EpisodeStore]] = {
    "d4rl": _open_d4rl,
    "bundled": _open_bundled,
    "minari": _open_minari,
    "hub": _open_hub,
    "atari": _open_atari,
}
