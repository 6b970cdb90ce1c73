"""Reader of pickles of the original repository (kzl/decision-transformer).

A pickle holds a list of trajectories, each a dict of `observations`, `actions`, `rewards`,
`terminals` and `next_observations`.

A pickle is a program. This reader lets it build numpy arrays and plain containers only; a pickle
that names another function is refused before the call. The file is read at once and has to fit in
memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from decision_seq import envs
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.source_files import describe_file, require_file
from decision_seq.datasets.store.task_entries import task
from decision_seq.types import Episode, Reporter, UserError

ARRAYS = ("observations", "actions", "rewards")


class _ArrayType:
    """Replacement of `numpy.ndarray`, which could be called with a shape of any size."""


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """An empty array; numpy's pickles fill it through its state afterwards."""
    if kind is not _ArrayType or shape != (0,):
        raise pickle.UnpicklingError("an array is built in an unusual way")
    return np.empty(0)


def _allowed() -> dict[tuple[str, str], Any]:
    """The names that pickled arrays need, with numpy 1's and numpy 2's paths -> the objects."""
    from numpy._core import multiarray, numeric

    names: dict[str, Any] = {"_reconstruct": _reconstruct, "scalar": multiarray.scalar}
    allowed: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _ArrayType}
    for package in ("numpy.core", "numpy._core"):
        for name, value in names.items():
            allowed[f"{package}.multiarray", name] = value
        allowed[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    allowed["numpy", "dtype"] = np.dtype
    allowed["_codecs", "encode"] = _latin1  # how protocol 2 writes bytes
    return allowed


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes are written as {encoding}")
    return text.encode("latin-1")


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that builds numpy arrays and plain containers only."""

    ALLOWED = _allowed()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        found = self.ALLOWED.get((module, name))
        if found is None:
            raise UserError(
                f"it names {module}.{name}, which data do not need: such a pickle may run any"
                " program, so it is not read"
            )
        return found


MOST_TUPLES = 16  # consecutive ones, between two stored values; an array's state has four


def _refuse_traps(file: BinaryIO) -> None:
    """Raise UserError for what exhausts the unpickler: a large memo index or nested tuples."""
    import pickletools

    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if isinstance(argument, int) and opcode.name.endswith("BINPUT") and argument > count:
            raise UserError("it reserves memory that it does not need; it is not read")
        if opcode.name.startswith("TUPLE"):
            tuples += 1
        elif opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "REDUCE", "BUILD"):
            tuples = 0
        if tuples > MOST_TUPLES:
            raise UserError("it nests tuples, which data do not need; it is not read")


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read a pickle into a store at `output`; UserError for a bad pickle."""
    require_file(path, "a pickle")
    try:
        with open(path, "rb") as file:
            _refuse_traps(file)
            file.seek(0)
            trajectories = RestrictedUnpickler(file).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} is no pickle, or is cut short ({error})") from error
    try:
        episodes = _episodes(trajectories, envs.facts_by_name(path.name))
        sizes = (int(np.prod(episodes[0].observations.shape[1:])), episodes[0].actions.shape[-1])
        with StoreWriter(output) as writer:
            for episode in episodes:
                writer.append(episode)
            return writer.finish(
                envs.canonical(path.stem),
                describe_file("pickle", "pickled trajectories", path),
                transitions_in=sum(len(trajectory["rewards"]) for trajectory in trajectories),
                has_timeouts=all("timeouts" in trajectory for trajectory in trajectories),
                **task(path.stem, *sizes),
            )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _episodes(trajectories: Any, found: tuple[str, envs.EnvironmentFacts] | None) -> list[Episode]:
    if not isinstance(trajectories, list) or not trajectories:
        raise UserError("it holds no list of trajectories")
    limit = found[1].max_episode_steps if found else None
    return [_episode(item, f"trajectory {i}", limit) for i, item in enumerate(trajectories)]


def _episode(item: Any, name: str, limit: int | None) -> Episode:
    """One trajectory as an episode; `terminals` and `timeouts` may be set at its last step only."""
    if not isinstance(item, dict):
        raise UserError(f"{name} is a {type(item).__name__}, not a dict of arrays")
    given = {key: np.asarray(value) for key, value in item.items() if _is_array(value)}
    missing = [key for key in (*ARRAYS, "terminals") if key not in given]
    if missing:
        raise UserError(f"{name} has no array {missing[0]!r}")
    observations, actions, rewards = (given[key] for key in ARRAYS)
    rewards = rewards.reshape(-1) if rewards.size == len(rewards) else rewards
    following = given.get("next_observations")
    if following is not None and following.shape == observations.shape and len(following):
        observations = np.concatenate([observations, following[-1:]])
    ends = {}
    for key in ("terminals", "timeouts"):
        flags = given.get(key, np.zeros(len(rewards), bool)).reshape(-1)
        if len(flags) != len(rewards) or not np.isin(flags, (0, 1)).all():
            raise UserError(f"{name}: {key} must be one 0 or 1 a step")
        if flags[:-1].any():
            raise UserError(f"{name}: {key} are set before its last step; split it there")
        ends[key] = bool(flags[-1]) if len(flags) else False
    timed_out = ends["timeouts"] or ("timeouts" not in given and len(rewards) == limit)
    return Episode(observations, actions, rewards, ends["terminals"], timed_out)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim > 0
