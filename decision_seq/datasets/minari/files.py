"""Checks on a Minari dataset's folder before Minari opens it.

Minari trusts the metadata. Faults that would end in a traceback there are one-line errors here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decision_seq import envs
from decision_seq.datasets.store import source_files
from decision_seq.envs.making import register_robotics
from decision_seq.reading import Absent, Unreadable, read_json
from decision_seq.types import UserError

FORMATS = ("hdf5", "arrow", "parquet")
OWN_KEY = "decision_seq"  # in metadata.json: facts of a store that Minari has no key for
FINAL = ("kept", "repeated")  # the observation after an episode's last step: real, or a copy


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Prefix a UserError's message with the path unless it names the path already."""
    try:
        yield
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}") from error


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Turn errors of Minari, h5py, pyarrow and Pillow on a damaged dataset into a UserError.

    The message is one line with the path. Use it around calls of these packages only, so that bugs
    of this package are not reported as damage.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these address a dataset's author
            yield
    except ImportError as error:
        raise UserError(f"{path}: {error}") from error  # Minari names the package to install
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason[:200]}); fetch it again") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The content of `data/metadata.json`; UserError if an entry has the wrong type."""
    import minari

    file = path / "data" / "metadata.json"
    try:
        metadata = read_json(file, strict=False)
    except Absent as error:
        hint = "give the folder of a Minari dataset" if path.exists() else "give another path"
        raise UserError(f"{path} holds no data/metadata.json; {hint}") from error
    except Unreadable as error:
        raise UserError(f"{error}; fetch the dataset again") from error
    kinds = {"dataset_id": str, "minari_version": str, "data_format": str}
    for key, kind in {**kinds, "total_episodes": int, "total_steps": int}.items():
        value = metadata.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{file}: {key} is {value!r}; fetch the dataset again")
    if metadata["minari_version"] not in minari.supported_dataset_versions:
        raise UserError(
            f"{path} was written by Minari {metadata['minari_version']}, which the installed"
            f" {minari.__version__} does not read; install another minari"
        )
    if metadata["data_format"] not in FORMATS:
        raise UserError(
            f"{file}: data_format is {metadata['data_format']!r}; {', '.join(FORMATS)} are read"
        )
    if metadata["total_episodes"] < 1 or metadata["total_steps"] < 1:
        raise UserError(f"{path} holds no transition")
    if max(metadata["total_episodes"], metadata["total_steps"]) >= 2**53:
        raise UserError(f"{file}: no dataset is so long; fetch the dataset again")
    return metadata


def require_whole(path: Path, metadata: dict[str, Any]) -> None:
    """Raise UserError unless there are as many episodes as the metadata say; none is read."""
    import h5py

    data, declared = path / "data", metadata["total_episodes"]
    if metadata["data_format"] == "hdf5":
        file = data / "main_data.hdf5"
        source_files.require_file(file, "Minari's main_data.hdf5")
        try:
            with h5py.File(file) as opened:
                found = len(opened)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{file} is no HDF5 file, or is cut short; fetch it again") from error
    else:
        found = sum(child.is_dir() and child.name.isdigit() for child in data.iterdir())
    if found != declared:
        raise UserError(
            f"{path} holds {found} episodes, its metadata say {declared}; it is cut short, fetch"
            " it again"
        )


def own_facts(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The facts that `export.write` wrote; empty for other datasets."""
    own = metadata.get(OWN_KEY, {})
    kinds = {"final": str, "env_id": str, "family": str, "description": str}
    sound = isinstance(own, dict) and all(
        own.get(key) is None or isinstance(own[key], kind) for key, kind in kinds.items()
    )
    if sound and own:
        sound = own.get("final") in FINAL and own.get("family") in (None, *envs.FACTS)
    if not sound:
        raise UserError(f"{path}: the metadata's {OWN_KEY!r} is not ours; write the dataset again")
    return own


def environment_spec(path: Path, metadata: dict[str, Any]) -> dict[str, Any] | None:
    """Gymnasium's specification of the evaluation environment: `eval_env_spec` or `env_spec`."""
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if text is None:
        return None
    try:
        spec = json.loads(text)
        usable = isinstance(spec["id"], str) and isinstance(spec.get("kwargs") or {}, dict)
        limit = spec.get("max_episode_steps")
        usable = usable and (limit is None or (type(limit) is int and limit > 0))
        wrappers = spec.get("additional_wrappers") or []
        usable = usable and isinstance(wrappers, list)
        usable = usable and all(isinstance(wrapper, dict) for wrapper in wrappers)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: the metadata's env_spec cannot be read ({error})") from error
    if not usable:
        raise UserError(f"{path}: the metadata's env_spec is malformed; fetch the dataset again")
    return spec


def environment_id(spec: dict[str, Any]) -> str:
    """The id `ID`, or `ID?{...}` with keyword arguments that differ from the registered ones."""
    known = registered(spec["id"])
    # compared as JSON, like the specification, in which a tuple is a list
    usual = {key: json.dumps(v, default=repr) for key, v in known.kwargs.items()} if known else {}
    given = spec.get("kwargs") or {}
    changed = {key: v for key, v in given.items() if usual.get(key) != json.dumps(v)}
    return f"{spec['id']}?{json.dumps(changed, sort_keys=True)}" if changed else spec["id"]


def registered(env_id: str) -> Any:
    """The specification of an environment registered with Gymnasium; None if unknown."""
    import gymnasium

    if env_id not in gymnasium.registry:
        register_robotics()
    return gymnasium.registry.get(env_id)
