"""Reader of D4RL's HDF5 files, by path, or by name from D4RL's cache or host.

D4RL's own package cannot be imported today (it needs mujoco-py), so its files are read directly.
`layout.py` describes their layout, `files.tsv` lists them.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from decision_seq.datasets import hdf5_links
from decision_seq.datasets.d4rl import layout
from decision_seq.datasets.d4rl.names import published
from decision_seq.datasets.fetching.download import fetch
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.root import configured_folder
from decision_seq.datasets.store.source_files import describe_file, require_file
from decision_seq.reading import Unreadable, read_record
from decision_seq.types import Reporter, UserError

HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
MIRROR = "DECISION_SEQ_D4RL_URL"  # the environment variable that names another host
HDF5 = b"\x89HDF\r\n\x1a\n"  # how a file without a user block begins
LAYOUT = "D4RL-layout file"  # how a store's source describes a file read by `read`


def versioned(name: str) -> str | None:
    """The newest version of a D4RL name, `hopper-medium` -> `hopper-medium-v2`; None if unknown."""
    if name in published():
        return name
    return next((full for v in "210" if (full := f"{name}-v{v}") in published()), None)


def dataset_name(path: Path) -> str:
    """D4RL's dataset name of a file of its host; the file's own name for other files.

    `hopper_mixed.hdf5` is hopper-medium-replay-v0; `Ant_maze_u-maze_...` is an antmaze.
    """
    known = {file.name: name for name, file in published().items()}
    return known.get(path.name, path.stem)


def own_dataset(source: str) -> str | None:
    """D4RL's dataset name for a store's source; None if the data are not D4RL's own.

    Anyone can write a file in D4RL's layout. The file is therefore identified by its checksum, and
    by its name only if no checksum was published.
    """
    described = re.fullmatch(rf"{LAYOUT} (.+), sha256 ([0-9a-f]{{12}})", source)
    if described is None:
        return None
    file_name, digest = described.groups()
    for name, file in published().items():
        own = file.name == file_name if file.sha256 is None else file.sha256.startswith(digest)
        if own:
            return name
    return None


def cache_folder() -> Path:
    """The folder of D4RL's files, shared with D4RL: `$D4RL_DATASET_DIR` or `~/.d4rl/datasets`."""
    return configured_folder("D4RL_DATASET_DIR", Path(".d4rl") / "datasets")


def find_file(name: str) -> Path | None:
    """The HDF5 file of a D4RL dataset in D4RL's cache or in `./data`; None if there is none."""
    full = versioned(name)
    if full is None:
        return None
    ours = f"{full.rpartition('-v')[0].replace('-', '_')}-v{full[-1]}.hdf5"
    published_name = published()[full].name
    folders = [Path("data")]
    with contextlib.suppress(UserError):  # this user has no home folder
        folders.insert(0, cache_folder())
    for folder in folders:
        for file in (published_name, ours):
            there = os.path.isfile(folder / file)  # False where the folder is another user's
            if there and _is_whole(folder / file, full):
                return folder / file
    return None


def _is_whole(path: Path, name: str) -> bool:
    """Whether a file may be read; False for a portal's page that was fetched in its place, which
    is removed.

    UserError for a file that `download` fetched and whose size has changed since.
    """
    facts = path.with_name(f"{path.name}.json")
    try:
        fetched = read_record(facts, {"bytes": int})["bytes"]
    except Unreadable:
        return True  # put there by hand, or by D4RL
    if path.stat().st_size != fetched:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, {fetched:,} were fetched for d4rl/{name};"
            " delete it and run again"
        )
    with open(path, "rb") as file:
        sound = file.read(len(HDF5)) == HDF5
    if not sound:
        path.unlink()
        facts.unlink()
    return sound


def download(name: str, reporter: Reporter | None = None) -> Path:
    """Download a D4RL dataset into D4RL's cache -> its file.

    `download.Unreachable` without a network. UserError for an unknown name, a refusal by the host,
    or a file whose size or checksum is not the published one.
    """
    full = versioned(name)
    if full is None:
        raise UserError(f"D4RL has no dataset called {name!r}; `decision-seq data list` names them")
    file = published()[full]
    host = os.environ.get(MIRROR, HOST).rstrip("/")
    return fetch(
        f"{host}/{file.path}",
        cache_folder() / file.name,
        file.bytes,
        file.sha256,
        reporter,
        starts=HDF5,
    )


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read the file into a store at `output`; UserError for a bad file.

    The environment to evaluate in follows from the file's name where that is a dataset's of D4RL.
    """
    import h5py

    require_file(path, "an HDF5 file")
    try:
        file = h5py.File(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is no HDF5 file, or is cut short; fetch it again") from error
    with file, StoreWriter(output) as writer:
        try:
            columns, others = _columns(file)
            stored = hdf5_links.stored_bytes(columns.values(), path.stat().st_size)
            layout.refuse_bomb(stored, sum(column.nbytes for column in columns.values()))
            source = describe_file("d4rl-hdf5", LAYOUT, path)
            return layout.fill(writer, columns, [*file], others, dataset_name(path), source)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
            # h5py raises any of these for damage within the file
            raise UserError(f"{path} is damaged ({error}); fetch it again") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _columns(file: Any) -> tuple[dict[str, Any], list[str]]:
    """The columns of the layout that the file has, and the names of further columns of steps.

    UserError for a column that links to another file.
    """
    columns = {}
    for name in layout.KNOWN:
        column = hdf5_links.dataset(file, _INSIDE.get(name, name))
        if column is not None:
            columns[name] = column
    rows = {column.shape[0] for column in columns.values() if column.shape}
    others = []
    for name in map(str, file):
        column = None
        with contextlib.suppress(UserError):  # what lies in other files is not read either
            column = None if name in columns else hdf5_links.dataset(file, name)
        if column is not None and column.shape and column.shape[0] in rows:
            others.append(name)
    return columns, others


# Where this package's exports store a column that D4RL's layout has no place for.
_INSIDE = {"unfinished": "infos/unfinished"}
