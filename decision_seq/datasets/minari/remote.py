"""Downloads of published Minari datasets, through Minari's own client.

`$MINARI_REMOTE` names the source, by default `hf://farama-minari`. Files stay under `.partial-`
until the dataset is complete; a run after an interrupted one downloads only the missing files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from decision_seq.datasets.fetching import remote
from decision_seq.datasets.minari.files import read_metadata, require_whole
from decision_seq.types import Reporter, UserError

NAME = re.compile(r"([A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+-v[0-9]+")


def roots(folder: Path) -> list[Path]:
    """The folders that are searched for Minari datasets: Minari's own, then `folder`."""
    configured = os.environ.get("MINARI_DATASETS_PATH")
    found = [Path(configured)] if configured else []
    with contextlib.suppress(RuntimeError):  # this user has no home folder
        found.append(Path.home() / ".minari" / "datasets")
    return [*found, folder]


def find(name: str, folder: Path) -> Path | None:
    """The folder of a local dataset, in Minari's own folders or `folder`; None if there is none."""
    found = (
        root / name
        for root in roots(folder)
        if os.path.isfile(root / name / "data" / "metadata.json")
    )
    return next(found, None)


def open_remote(name: str, folder: Path, reporter: Reporter | None = None) -> Path:
    """The folder of `mujoco/hopper/medium-v0`, downloaded into `folder` unless it is local.

    UserError within seconds without a network, for an unknown dataset, or without access to it.
    """
    reporter = reporter or Reporter()
    if not NAME.fullmatch(name):
        raise UserError(f"minari/{name}: Minari's names are like mujoco/hopper/medium-v0")
    found = find(name, folder)
    if found is not None:
        return found
    storage = _storage(name)
    with remote.told_of(f"minari/{name}", lambda: _nearest_names(name, storage)), remote.quiet():
        facts = storage.get_dataset_metadata(name)
        partial = folder / f".partial-{name.replace('/', '--')}"
        megabytes = facts.get("dataset_size") if isinstance(facts, dict) else None
        total = int(megabytes * 1e6) if isinstance(megabytes, int | float) else 0
        reporter.say(f"minari/{name}: fetching {total / 1e6:.0f} MB to {folder}")
        partial.mkdir(parents=True, exist_ok=True)
        with remote.watched(partial, f"fetch {name}", total, reporter):
            storage.download_dataset(name, partial)
    try:
        require_whole(partial / name, read_metadata(partial / name))
    except UserError as error:
        shutil.rmtree(partial)  # the files are not those that the metadata describe
        message = str(error).replace(str(partial / name), f"minari/{name}")
        raise UserError(message) from error
    final = remote.settle(partial / name, folder / name)
    shutil.rmtree(partial)
    return final


def _storage(name: str) -> Any:
    """Minari's client for `$MINARI_REMOTE`, after a check that its host answers."""
    from minari.storage.remotes import DEFAULT_REMOTE, get_cloud_storage

    place = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    kind, _, where = place.partition("://")
    if kind == "hf" and where:
        remote.require_hub(f"minari/{name}")
    elif kind == "gcp" and where:
        remote.require_reachable(f"minari/{name}", remote.GCS_ENDPOINT)
    try:
        return get_cloud_storage(place)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"minari/{name}: MINARI_REMOTE is {place!r}; hf://ORGANISATION is known"
        ) from error
    except ImportError as error:
        raise UserError(f"minari/{name}: MINARI_REMOTE is {place!r}: {error}") from error


def _nearest_names(name: str, storage: Any) -> str:
    """A hint with the nearest of the published names, if they can be listed."""
    try:
        listed = sorted(storage.list_datasets())
    except Exception as error:
        if not remote.is_failure(error):
            raise
        return "and its listing cannot be had; check the name"
    return remote.nearest(name, listed)
