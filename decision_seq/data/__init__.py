"""Datasets by name: every source becomes an EpisodeStore, once, and training opens nothing else.

| name | what is opened |
|---|---|
| `hopper-medium`, `-v2` | the best at hand: D4RL's file, the same fetched, the bundled collection |
| `d4rl/hopper-medium-v2` | D4RL's file, fetched where it is not at hand |
| `bundled/hopper-medium` | the bundled collection, made on first use |
| `key-to-door-1k`, `-10k` | random walks in Key-to-Door: as many episodes, made on first use |
| `minari/mujoco/hopper/medium-v0` | a Minari dataset, local or fetched |
| `hub/REPO`, `hub/REPO:CONFIG` | trajectories in a dataset of the Hugging Face Hub |
| `path/to/file` | `.hdf5` in D4RL's layout, `.npz`, `.pkl` of the original repository, `.parquet` |
| `atari/bundled-pong`, `-breakout` | games by scripted players, played on first use |
| `atari/Breakout` | DQN-replay's logs of the game at hand |
| `path/to/folder` | a store, a Minari dataset, a folder of `.parquet` files, of DQN-replay's logs |
| `A+B` | the episodes of A, then those of B |

Stores are kept in `$DECISION_SEQ_DATA`, by default `~/.cache/decision_seq`.
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
from decision_seq.data import (
    atari_bundled,
    bundled,
    d4rl,
    hub,
    hub_remote,
    joining,
    minari,
    minari_remote,
    npz,
    outcome,  # noqa: F401 (registers its conditionings)
    pickles,
    replay,
    replay_shards,
)
from decision_seq.data.collection import Size
from decision_seq.data.download import Unreachable
from decision_seq.data.identity import stamp, store_root, visible
from decision_seq.data.replay_draw import ReplayConfig
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Reporter, UserError


@dataclass(frozen=True)
class Request:
    """How a dataset is to be opened.

    size, seed, workers: of a bundled collection (no size is the collection's own); replay: what is
    taken of DQN-replay's logs; reporter: where news and progress are shown.
    """

    size: Size | None = None
    seed: int = 0
    workers: int | None = None
    reporter: Reporter = field(default_factory=Reporter)
    replay: ReplayConfig = field(default_factory=ReplayConfig)


Reader = Callable[[Path, Path, Reporter], EpisodeStore]  # (path, output, reporter) -> store

STAMP = "stamp.json"  # beside a store's columns: the file or folder it was made of

FILE_READERS: dict[str, Reader] = {
    ".hdf5": d4rl.read,
    ".h5": d4rl.read,
    ".npz": npz.read,
    ".pkl": pickles.read,
    ".pickle": pickles.read,
    ".parquet": hub.read,
}
# What the first bytes of a file without a known suffix say.
SIGNATURES: dict[bytes, Reader] = {
    b"\x89HDF\r\n\x1a\n": d4rl.read,
    b"PK\x03\x04": npz.read,
    b"PAR1": hub.read,
    b"\x80": pickles.read,
}
# A file by which a folder's kind is recognised -> its reader, and the files it may read.
FOLDER_READERS: dict[str, tuple[Reader, str]] = {
    "data/metadata.json": (minari.read, "data/**/*"),
    "**/*.parquet": (hub.read, "**/*"),
    f"**/{replay_shards.MARKER}": (replay.read, "**/*.gz"),
}


def open_dataset(name: str, request: Request | None = None) -> EpisodeStore:
    """Open a dataset by name or path; UserError names an unknown one and its nearest kin."""
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
    """The file or folder of that name, where there is one."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (ValueError, RuntimeError):  # a NUL, or the home of nobody
        return None


def open_path(path: Path, request: Request) -> EpisodeStore:
    """A store, or the store made of this very file or folder: anew when that has changed."""
    if path.is_dir() and (path / "header.json").exists():
        return EpisodeStore.open(path)
    reader, files = _reader(path)
    identity = os.fsencode(path.resolve())
    if reader is replay.read:  # what is taken of the logs makes the store
        reader = functools.partial(replay.read, config=request.replay)
        identity += repr(request.replay).encode()
    key = hashlib.sha256(identity).hexdigest()[:12]
    output = store_root() / f"{envs.canonical(path.name)[:80]}-{key}"
    now = stamp(path, files)
    kept = _reopen(output, request)
    if kept is not None and _kept_stamp(output) == now:
        return kept
    store = reader(path, output, request.reporter)
    if stamp(path, files) != now:  # whatever was read, it is not the file as it is
        shutil.rmtree(output)
        raise UserError(f"{path} changed while it was read; run again")
    (output / STAMP).write_text(json.dumps(now))
    return store


def _reopen(output: Path, request: Request) -> EpisodeStore | None:
    """The store kept under that name; None, and the remains gone, where there is no sound one."""
    if not output.is_dir():
        return None
    try:
        return EpisodeStore.open(output)
    except UserError as error:
        request.reporter.say(f"made again: {str(error).partition('; delete')[0]}")
        shutil.rmtree(output)  # in the folder that is ours alone
        return None


def _kept_stamp(store: Path) -> object:
    """What the store was made of; None where it is not known."""
    try:
        return json.loads((store / STAMP).read_text())
    except (OSError, ValueError):
        return None


def _reader(path: Path) -> tuple[Reader, Sequence[Path] | None]:
    """Who reads the path, and which files of a folder."""
    if path.is_dir():
        for marker, (reader, pattern) in FOLDER_READERS.items():
            if visible(path, marker):
                return reader, visible(path, pattern)
        raise UserError(
            f"{path} is no dataset: it holds no header.json (a store), no data/metadata.json"
            " (Minari), no .parquet file and no shard of DQN-replay"
        )
    by_suffix = FILE_READERS.get(path.suffix.lower())
    if by_suffix is not None:
        return by_suffix, None
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(8)
        for signature, reader in SIGNATURES.items():
            if start.startswith(signature):
                return reader, None
    raise UserError(f"{path} is of no known kind; there are {', '.join(FILE_READERS)} and folders")


def _open_best(name: str, request: Request) -> EpisodeStore:
    """`hopper-medium`: D4RL's file at hand, else downloaded, else the bundled collection."""
    collected = name.removesuffix("-v2")  # the bundled collections stand in for D4RL's v2 alone
    stands_in = collected in bundled.bundled()
    if d4rl.versioned(name) is None and not stands_in:
        raise UserError(_unknown(name))
    if d4rl.versioned(name) is not None:
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
    known = [*bundled.bundled(), *d4rl.published()]
    nearest = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"nearest known: {', '.join(nearest)}; " if nearest else ""
    return f"unknown dataset {name!r}; {hint}`decision-seq data list` shows them all"


def _open_d4rl(name: str, request: Request) -> EpisodeStore:
    return open_path(d4rl.find_file(name) or d4rl.download(name, request.reporter), request)


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
        size = request.size or atari_bundled.DEFAULT_SIZE
        output = store_root() / atari_bundled.store_name(name, size, request.seed)
        return _reopen(output, request) or atari_bundled.collect(
            name, output, size, request.seed, request.workers, request.reporter
        )
    return open_path(replay.where(name, store_root()), request)


def _require_name(source: str, name: str, pattern: re.Pattern[str], example: str) -> None:
    """UserError for a name that is none, as one that leads out of the folder."""
    if not pattern.fullmatch(name):
        raise UserError(f"{source}/{name} is no name of a dataset; give one like {example}")


SOURCES: dict[str, Callable[[str, Request], EpisodeStore]] = {
    "d4rl": _open_d4rl,
    "bundled": _open_bundled,
    "minari": _open_minari,
    "hub": _open_hub,
    "atari": _open_atari,
}
