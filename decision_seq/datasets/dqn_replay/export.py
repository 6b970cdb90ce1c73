"""Export of an Atari store to DQN-replay's layout, as written by Dopamine's buffer.

    OUTPUT/Breakout/1/replay_logs/$store$_observation_ckpt.0.gz ...

Three transitions of zeros precede every episode, and rewards are clipped to [-1, 1]. Shards hold
whole episodes. The layout marks an end by a terminal only: a truncated episode reads back as
terminated; an episode without an end is the last of its shard.
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from decision_seq.datasets.dqn_replay.reader import PADDING, STACK
from decision_seq.datasets.dqn_replay.shards import FRAME, array_file
from decision_seq.datasets.store import EpisodeStore
from decision_seq.types import Reporter, UserError

SHARD_ROWS = 1_000_000
LEVEL = 1  # of gzip: higher levels take several times as long to save a quarter
DTYPES = {"observation": np.uint8, "action": np.int32, "reward": np.float32, "terminal": np.uint8}


def write(store: EpisodeStore, output: Path, reporter: Reporter) -> None:
    """Write shards below the folder `output`; UserError unless the store holds Atari frames."""
    game = re.fullmatch(r"atari/(\w+)-v0(\?.*)?", store.header["env_id"] or "")
    shape = store.columns["observations"].shape[1:]
    if game is None or store.stack != STACK or shape != FRAME:
        raise UserError(
            f"{store.name} cannot be written as dqn-replay, which holds Atari games in frames of 84"
            f" x 84, {STACK} to an observation; it has {[*store.observation_shape]} of"
            f" {store.header['env_id'] or 'an unknown environment'}"
        )
    folder = output / game[1] / "1" / "replay_logs"
    folder.mkdir(parents=True)
    with reporter.bar("write", "step", store.num_transitions) as bar:
        for number, (first, last) in enumerate(_shards(store)):
            for episode in _write_shard(store, folder, number, first, last):
                bar.update(int(store.lengths[episode]))
    truncated = int(store.truncated.sum())
    if truncated:
        reporter.say(f"{truncated:,} truncated episodes are written as terminated")


def _shards(store: EpisodeStore) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the episodes of each shard."""
    ended = store.terminated | store.truncated
    first = rows = 0
    for episode, length in enumerate(store.lengths + PADDING):
        if episode > first and (rows + length > SHARD_ROWS or not ended[episode - 1]):
            yield first, episode
            first, rows = episode, 0
        rows += length
    yield first, store.num_episodes


def _write_shard(
    store: EpisodeStore, folder: Path, number: int, first: int, last: int
) -> Iterator[int]:
    """Write the episodes first to last - 1; yields the index of each after it is written."""
    rows = int((store.lengths[first:last] + PADDING).sum())
    with contextlib.ExitStack() as stack:
        files = {}
        for array, dtype in DTYPES.items():
            file = stack.enter_context(_packed(array_file(folder, array, number)))
            shape = (rows, *FRAME) if array == "observation" else (rows,)
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            files[array] = file
        for index in range(first, last):
            episode = store.episode(index)
            terminals = np.zeros(len(episode))
            terminals[-1] = episode.terminated or episode.truncated
            columns = {
                "observation": episode.observations,
                "action": episode.actions,
                "reward": np.clip(episode.rewards, -1, 1),
                "terminal": terminals,
            }
            for array, column in columns.items():
                padding = np.zeros((PADDING, *column.shape[1:]))
                for part in (padding, column):
                    files[array].write(part.astype(DTYPES[array]).tobytes())
            yield index
    # The state of a full buffer whose next transition would replace the oldest, as in DQN-replay.
    around = (np.arange(STACK + 1) - 1) % rows
    for name, value in {"add_count": np.array(rows), "invalid_range": around}.items():
        with _packed(folder / f"{name}_ckpt.{number}.gz") as file:
            np.lib.format.write_array(file, value, allow_pickle=False)


def _packed(path: Path) -> BinaryIO:
    return gzip.GzipFile(path, "wb", LEVEL, mtime=0)  # type: ignore[return-value]
