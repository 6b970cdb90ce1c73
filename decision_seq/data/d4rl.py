"""D4RL's HDF5 layout, read directly (D4RL's own package cannot be imported today).

Layout: flat arrays `observations`, `actions`, `rewards`, `terminals`, and in newer files
`timeouts` and `next_observations`, one row a transition, episodes end to end. What differs between
real files, and is accepted: flags stored as floats, rewards of shape (N, 1), float64 throughout,
no `timeouts` (an episode then ends at its terminal or at the task's step limit), and a last
episode that simply stops. Every transition of the file is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import envs
from decision_seq.data.store import EpisodeStore
from decision_seq.data.writer import StoreWriter, sha256
from decision_seq.types import Episode, UserError

REQUIRED = ("observations", "actions", "rewards", "terminals")
BLOCK_ROWS = 65_536  # rows held in memory at once, rounded up to whole episodes


def find_file(name: str) -> Path | None:
    """The HDF5 file of a D4RL dataset name, where one is at hand.

    Looked for in `$D4RL_DATASET_DIR`, D4RL's own cache `~/.d4rl/datasets`, and `./data`.
    """
    stem, _, version = name.partition("-v")
    file_name = f"{stem.replace('-', '_')}-v{version or 2}.hdf5"
    folders = [Path.home() / ".d4rl" / "datasets", Path("data")]
    if os.environ.get("D4RL_DATASET_DIR"):
        folders.insert(0, Path(os.environ["D4RL_DATASET_DIR"]))
    return next((folder / file_name for folder in folders if (folder / file_name).is_file()), None)


def read(path: Path, output: Path) -> EpisodeStore:
    """Read the file into a store at `output`; UserError says what is wrong with a bad file.

    The environment to evaluate in is told from the file's name, or from the sizes where only one
    environment has them.
    """
    import h5py

    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is no regular file; give an HDF5 file")
    try:
        file = h5py.File(path)
    except (OSError, RuntimeError) as error:
        reason = "is empty" if path.stat().st_size == 0 else "is no HDF5 file, or is cut short"
        raise UserError(f"{path} {reason}; fetch it again") from error
    with file, StoreWriter(output) as writer:
        columns = _columns(file, path)
        sizes = (int(np.prod(columns["observations"].shape[1:])), columns["actions"].shape[-1])
        family = envs.facts_by_name(path.name) or envs.facts_by_sizes(*sizes)
        facts = family[1] if family else None
        try:
            terminals = _flags(columns["terminals"], path)
            timeouts = _timeouts(columns, terminals, facts, path)
            for episode in _episodes(columns, terminals, timeouts):
                writer.append(episode)
        except (OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
            # h5py reports damage within the file by any of these
            raise UserError(f"{path} is damaged ({error}); fetch it again") from error
        except UserError as error:
            message = str(error)
            raise UserError(message if str(path) in message else f"{path}: {message}") from error
        digest = sha256(path)
        return writer.finish(
            canonical_name(path),
            {
                "kind": "d4rl-hdf5",
                "description": f"D4RL-layout file {path.name}, sha256 {digest[:12]}",
                "path": str(path.resolve()),
                "bytes": path.stat().st_size,
                "modified_ns": path.stat().st_mtime_ns,
                "sha256": digest,
            },
            env_id=facts.env_id if facts else None,
            family=family[0] if family else None,
            max_episode_steps=facts.max_episode_steps if facts else None,
            transitions_in=len(terminals),
            has_timeouts="timeouts" in columns,
        )


def canonical_name(path: Path) -> str:
    return envs.canonical(path.name)


def _columns(file: Any, path: Path) -> dict[str, Any]:
    """The datasets of the file, all of one length; UserError otherwise."""
    import h5py

    wanted = (*REQUIRED, "timeouts", "next_observations")
    try:
        columns = {name: file[name] for name in wanted if isinstance(file.get(name), h5py.Dataset)}
        found = ", ".join(sorted(map(str, file))) or "nothing"
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from error
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise UserError(f"{path} has no {missing[0]!r} (it holds {found}); is it a D4RL file?")
    for name, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise UserError(f"{path}: {name} is {column.dtype}, not numbers")
        if column.ndim == 0:
            raise UserError(f"{path}: {name} is a single number; one row a transition is needed")
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{path}: columns differ in length ({listed}); fetch it again")
    if rows["rewards"] == 0:
        raise UserError(f"{path} holds no transition")
    if columns["rewards"].size != rows["rewards"]:
        raise UserError(
            f"{path}: rewards has shape {columns['rewards'].shape}; one a row is needed"
        )
    shapes = {name: columns[name].shape for name in ("observations", "actions")}
    for name, shape in shapes.items():
        if len(shape) != 2 or shape[1] == 0:
            raise UserError(f"{path}: {name} has shape {shape}; rows of numbers are needed")
    following = columns.get("next_observations")
    if following is not None and following.shape != shapes["observations"]:
        raise UserError(
            f"{path}: next_observations has shape {following.shape}, observations"
            f" {shapes['observations']}"
        )
    return columns


def _flags(column: Any, path: Path) -> np.ndarray:
    values = column[:].reshape(-1)
    if not np.isin(values, (0, 1)).all() or len(values) != len(column):
        raise UserError(f"{path}: {column.name.strip('/')} holds other values than 0 and 1")
    return values.astype(bool)


def _timeouts(
    columns: dict[str, Any], terminals: np.ndarray, facts: envs.EnvironmentFacts | None, path: Path
) -> np.ndarray:
    """The file's own timeouts, or, where it has none, every step at the task's limit."""
    if "timeouts" in columns:
        return _flags(columns["timeouts"], path) & ~terminals
    if facts is None or facts.max_episode_steps is None:
        return np.zeros_like(terminals)
    timeouts = np.zeros_like(terminals)
    start = 0
    for end in [*(np.flatnonzero(terminals) + 1), len(terminals)]:
        timeouts[start + facts.max_episode_steps - 1 : end : facts.max_episode_steps] = True
        start = end
    return timeouts & ~terminals


def _episodes(
    columns: dict[str, Any], terminals: np.ndarray, timeouts: np.ndarray
) -> Iterator[Episode]:
    """Whole episodes, the file read in blocks of about BLOCK_ROWS rows."""
    rows = len(terminals)
    ends = np.flatnonzero(terminals | timeouts) + 1
    if len(ends) == 0 or ends[-1] != rows:
        ends = np.append(ends, rows)  # a tail without an end: kept, flagged as neither
    first = 0
    while first < len(ends):
        block_start = 0 if first == 0 else int(ends[first - 1])
        last = int(np.searchsorted(ends, min(block_start + BLOCK_ROWS, rows)))
        block_end = int(ends[last])
        block = {name: column[block_start:block_end] for name, column in columns.items()}
        start = block_start
        for end in ends[first : last + 1]:
            yield _episode(
                block, start - block_start, int(end) - block_start, terminals, timeouts, end
            )
            start = int(end)
        first = last + 1


def _episode(
    block: dict[str, np.ndarray],
    start: int,
    end: int,
    terminals: np.ndarray,
    timeouts: np.ndarray,
    row_end: int,
) -> Episode:
    rows = slice(start, end)
    observations = block["observations"][rows]
    if "next_observations" in block:
        final = block["next_observations"][end - 1 : end]
        observations = np.concatenate([observations, final.astype(observations.dtype)])
    return Episode(
        observations,
        block["actions"][rows],
        block["rewards"][rows].reshape(end - start),
        bool(terminals[row_end - 1]),
        bool(timeouts[row_end - 1]),
    )
