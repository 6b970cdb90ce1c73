"""Export of stores to other layouts.

Every layout reads back to identical arrays, except DQN-replay's, which clips rewards. Facts that a
layout has no place for are written where other readers ignore them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from decision_seq.datasets.dqn_replay import export as replay_export
from decision_seq.datasets.hdf5_files import created
from decision_seq.datasets.hub import export as hub_export
from decision_seq.datasets.minari import export as minari_export
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import column_file
from decision_seq.machine.files import whole
from decision_seq.types import Reporter, UserError

BLOCK_ROWS = 65_536


def convert(store: EpisodeStore, layout: str, output: Path, reporter: Reporter) -> None:
    """Write the store in a layout at `output`, whole or not at all; UserError if it exists."""
    if layout not in LAYOUTS:
        raise UserError(f"{layout!r} is no layout; there are {', '.join(LAYOUTS)}")
    if store.stack > 1 and layout not in FRAMED:
        raise UserError(
            f"{store.name} holds single frames, {store.stack} to an observation, which {layout}"
            f" cannot say; convert it to {' or '.join(FRAMED)}"
        )
    output = Path(os.path.abspath(output))
    if output.exists():
        raise UserError(f"{output} exists; name another --output")
    for folder in (store.path, *_origin(store)):
        if output.is_relative_to(folder.resolve()):
            raise UserError(f"{output} lies within the dataset itself; name another --output")
    with whole(output) as partial:
        LAYOUTS[layout](store, partial, reporter)


def _origin(store: EpisodeStore) -> list[Path]:
    """The file or folder that the store was made from, if its header names one."""
    path = Path(str(store.header["source"].get("path", store.path)))
    try:
        return [path.resolve()]
    except (OSError, ValueError, RuntimeError):  # the header may hold any text
        return []


def write_store(store: EpisodeStore, output: Path, reporter: Reporter) -> None:
    """Write a copy of the store, without the labels saved beside it."""
    output.mkdir()
    columns = store.header["columns"].items()
    files = [column_file(store.path, name, facts) for name, facts in columns]
    for file in (store.path / "header.json", *files):
        shutil.copyfile(file, output / file.name)


def write_d4rl(store: EpisodeStore, output: Path, reporter: Reporter) -> None:
    """Write one HDF5 file in D4RL's v2 layout.

    D4RL marks an end of an episode as terminal or time-out only. Episodes without an end are marked
    as timed out and also in `infos/unfinished`, so that they read back unchanged. Rewards stay
    float64.
    """
    columns = store.columns
    last = store.offsets[1:] - 1
    flags = {name: np.zeros(store.num_transitions, bool) for name in FLAGS}
    flags["terminals"][last] = store.terminated
    flags["timeouts"][last] = ~store.terminated
    flags["infos/unfinished"][last] = ~store.terminated & ~store.truncated
    with created(output) as file, reporter.bar("write", "row", store.num_transitions) as bar:
        file.attrs["source"] = store.source
        for name, array in flags.items():
            file.create_dataset(name, data=array, compression="gzip")
        names = {"observations", "actions", "rewards"}
        if "final_observations" in columns:
            names.add("next_observations")
        for name in sorted(names):
            like = columns["observations" if name == "next_observations" else name]
            file.create_dataset(name, like.shape, like.dtype, compression="gzip", chunks=True)
        for start in range(0, store.num_transitions, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, store.num_transitions))
            for name in names - {"next_observations"}:
                file[name][rows] = columns[name].array[rows]
            if "next_observations" in names:
                file["next_observations"][rows] = _following(store, rows)
            file.kept.check()
            bar.update(rows.stop - rows.start)


FLAGS = ("terminals", "timeouts", "infos/unfinished")


def _following(store: EpisodeStore, rows: slice) -> np.ndarray:
    """The observation after each row: the next row's, or the episode's final one."""
    observations = store.columns["observations"].array
    following = observations[
        np.minimum(np.arange(rows.start, rows.stop) + 1, len(observations) - 1)
    ]
    first, end = np.searchsorted(store.offsets[1:], [rows.start + 1, rows.stop + 1])
    finals = store.columns["final_observations"].array[first:end]
    following[store.offsets[first + 1 : end + 1] - 1 - rows.start] = finals
    return following


FRAMED = ("store", "dqn-replay")  # the layouts that can hold single frames
LAYOUTS: dict[str, Callable[[EpisodeStore, Path, Reporter], object]] = {
    "store": write_store,
    "d4rl": write_d4rl,
    "minari": minari_export.write,
    "parquet": hub_export.write,
    "dqn-replay": replay_export.write,
}
