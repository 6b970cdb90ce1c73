"""DQN-replay's files: a shard is a checkpoint of Dopamine's replay buffer, four arrays in gzip.

    $store$_observation_ckpt.N.gz   uint8 [n, 84, 84]: single frames, 7 GB unpacked for a million
    $store$_action_ckpt.N.gz        int32 [n]
    $store$_reward_ckpt.N.gz        float32 [n]
    $store$_terminal_ckpt.N.gz      uint8 [n]
    add_count_ckpt.N.gz             one number: transitions added to the buffer so far; without
                                    it, all n rows count as this shard's own

Each is numpy's .npy within gzip (google/dopamine, replay_memory/circular_replay_buffer.py). The
frames are streamed; the other arrays of one shard are held in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any

import numpy as np

from decision_seq.datasets.d4rl.layout import refuse_bomb
from decision_seq.datasets.files.npz import require_lengths
from decision_seq.datasets.store.source_files import require_file, visible
from decision_seq.types import UserError

FRAME = (84, 84)
# Array -> its dtype kinds in numpy, the shape of a row, and both in words.
ARRAYS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "observation": ("u", FRAME, "[n, 84, 84] of uint8"),
    "action": ("iu", (), "one whole number a row"),
    "reward": ("f", (), "one floating-point number a row"),
    "terminal": ("ub", (), "0 or 1 a row, of uint8"),
}
MARKER = "$store$_*_ckpt.*.gz"
HEADER_BYTES = 4096  # limit; numpy's headers have 128


def array_file(folder: Path, array: str, number: int) -> Path:
    """The file of one array of a shard."""
    return folder / f"$store$_{array}_ckpt.{number}.gz"


def shard_folder(path: Path) -> Path:
    """The folder of shards at or below `path`; UserError if there are several, as for runs."""
    folders = sorted({file.parent for file in visible(path, f"**/{MARKER}")})
    if not folders:
        raise UserError(f"{path} holds no shard of DQN-replay ({MARKER})")
    if len(folders) > 1:
        listed = ", ".join(map(str, folders[:2]))
        raise UserError(f"{path} holds {len(folders)} folders of shards ({listed}, ...); name one")
    return folders[0]


def find_shards(folder: Path) -> list[int]:
    """The numbers of the shards, ascending; UserError if one lacks any of the four arrays."""
    pattern = re.compile(r"\$store\$_(\w+)_ckpt\.(\d+)\.gz")
    found = {match.groups() for file in folder.iterdir() if (match := pattern.fullmatch(file.name))}
    numbers = sorted({int(number) for array, number in found if array in ARRAYS})
    for number in numbers:
        for array in ARRAYS:
            file = array_file(folder, array, number)
            if not file.is_file():
                raise UserError(f"{file} is missing: a shard has {', '.join(ARRAYS)}; fetch it")
    return numbers


class Stream:
    """Reader of one array from front to back; faults of the file are UserErrors with its name."""

    def __init__(self, path: Path) -> None:
        require_file(path, "a shard of DQN-replay")
        self.path = path
        self.done = 0  # rows
        with self._file_errors():
            self.file = gzip.open(path)  # noqa: SIM115 (closed by `__exit__`)
            try:
                shape, self.dtype = self._header()
            except BaseException:
                self.file.close()
                raise
        self.shape = shape or (1,)  # a single number is one row

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: int) -> np.ndarray:
        """The next rows, [rows, ...]; with the last row, the file's end is checked too."""
        size = rows * int(np.prod(self.shape[1:])) * self.dtype.itemsize
        with self._file_errors():
            content = self.file.read(size)
            self.done += rows
            if len(content) < size:
                raise UserError(f"{self.path} is cut short; fetch it again")
            if self.done == len(self) and self.file.read(1):
                raise UserError(f"{self.path} is longer than it says; fetch it again")
        return np.frombuffer(content, self.dtype).reshape(rows, *self.shape[1:])

    def _header(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype, by numpy's own header reader, which executes no code."""
        version = np.lib.format.read_magic(self.file)
        readers: dict[tuple[int, int], Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"its format is {version}")
        shape, by_columns, dtype = readers[version](self.file, max_header_size=HEADER_BYTES)
        if dtype.hasobject:
            raise UserError(f"{self.path} holds pickled objects, which may run any program")
        require_lengths(shape)
        if by_columns and len(shape) > 1:
            raise ValueError("it is laid out by columns")
        return shape, dtype

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Turn errors of reading the file into UserErrors with its name."""
        try:
            yield
        except gzip.BadGzipFile as error:
            raise UserError(f"{self.path} is not in gzip, or damaged ({error})") from error
        except EOFError as error:
            raise UserError(f"{self.path} is cut short; fetch it again") from error
        except zlib.error as error:
            raise UserError(f"{self.path} is damaged ({error}); fetch it again") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror})") from error
        except (ValueError, SyntaxError, TokenError, TypeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{self.path} holds no array of numpy ({reason})") from error


@dataclass(frozen=True)
class Shard:
    """The arrays of a shard in memory, [n] each: all but its frames."""

    folder: Path
    number: int
    actions: np.ndarray  # int64
    rewards: np.ndarray  # float64
    terminals: np.ndarray  # bool
    digest: str  # of the three

    def __len__(self) -> int:
        return len(self.terminals)

    def frames(self) -> Stream:
        """A stream of the frames, from the first."""
        return Stream(array_file(self.folder, "observation", self.number))

    def segments(self) -> list[tuple[int, int]]:
        """(start, stop) of the episodes, which end at terminals; the last may end without one."""
        stops = [*(np.flatnonzero(self.terminals) + 1).tolist()]
        if not stops or stops[-1] != len(self):
            stops.append(len(self))
        return list(zip([0, *stops[:-1]], stops, strict=True))


def open_shard(folder: Path, number: int) -> Shard:
    """Read a shard; UserError unless its four arrays have the right dtypes and one length."""
    lengths = {array: _length(folder, array, number) for array in ARRAYS}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{array} {length:,}" for array, length in lengths.items())
        raise UserError(
            f"{folder}: shard {number}: its arrays differ in length ({listed}); fetch it again"
        )
    terminals = open_terminals(folder, number)
    rows = len(terminals)
    actions, rewards = (_whole(folder, array, number)[:rows] for array in ("action", "reward"))
    if not np.isfinite(rewards).all():
        raise UserError(f"{folder}: shard {number}: rewards hold NaN or infinity; fetch it again")
    digest = hashlib.sha256(actions.tobytes() + rewards.tobytes() + terminals.tobytes())
    return Shard(
        folder,
        number,
        actions.astype(np.int64),
        rewards.astype(np.float64),
        terminals,
        digest.hexdigest(),
    )


def open_terminals(folder: Path, number: int) -> np.ndarray:
    """A shard's terminals, [n] bool, for the rows that hold transitions."""
    _length(folder, "terminal", number)
    terminals = _whole(folder, "terminal", number)
    if not np.isin(terminals, (0, 1)).all():
        raise UserError(
            f"{folder}: shard {number}: terminals hold other values than 0 and 1; fetch it again"
        )
    return terminals[: _written(folder, number, len(terminals))].astype(bool)


def _length(folder: Path, array: str, number: int) -> int:
    """Number of rows by an array's header; UserError for a wrong dtype or shape."""
    kinds, row, wanted = ARRAYS[array]
    with Stream(array_file(folder, array, number)) as stream:
        shape, dtype = stream.shape, stream.dtype
        fits = len(shape) == 1 + len(row) and shape[1:] == row and dtype.kind in kinds
        if not fits or (array == "observation" and dtype != np.uint8):
            raise UserError(f"{stream.path} is {dtype} {[*shape]}; {array}s are {wanted}")
        if shape[0] == 0:
            raise UserError(f"{stream.path} is empty; fetch it again")
        return shape[0]


def _whole(folder: Path, array: str, number: int) -> np.ndarray:
    path = array_file(folder, array, number)
    with Stream(path) as stream:
        size = len(stream) * stream.dtype.itemsize
        try:
            refuse_bomb(path.stat().st_size, size)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return stream.read(len(stream))


def _written(folder: Path, number: int, capacity: int) -> int:
    """Number of rows of the buffer that hold transitions; all if there is no count."""
    file = folder / f"add_count_ckpt.{number}.gz"
    if not file.is_file():
        return capacity
    with Stream(file) as stream:
        if stream.shape != (1,) or stream.dtype.kind not in "iu":
            raise UserError(f"{file} is {stream.dtype} {[*stream.shape]}; one number is needed")
        count = int(stream.read(1)[0])
    if count < 1:
        raise UserError(f"{file}: a buffer of {count:,} transitions; delete this shard's files")
    if count % capacity == capacity - 1:
        # DQN-replay's logger saved each buffer one row before it was full. From the second shard
        # on, the last row precedes the first in time (google-research/batch_rl,
        # baselines/replay_memory/logged_replay_buffer.py).
        return capacity - 1
    if count > capacity and count % capacity:
        raise UserError(
            f"{file}: the buffer of {capacity:,} was saved after {count:,} transitions, in the"
            " midst of overwriting itself; only shards saved when full, or before, are read"
        )
    return min(count, capacity)
