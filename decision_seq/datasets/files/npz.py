"""NumPy archives in D4RL's flat layout (`d4rl/layout.py`), and arrays of trajectories as objects.

Columns are streamed from the archive, so that it may be larger than memory. An archive that would
unpack to an implausible size is refused.
"""

from __future__ import annotations

import lzma
import math
import sys
import zipfile
import zlib
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from decision_seq.datasets.d4rl import layout
from decision_seq.datasets.files import inert_pickle, trajectories
from decision_seq.datasets.files.stand_ins import Damaged
from decision_seq.datasets.step_columns import shown
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.source_files import describe_file, require_file
from decision_seq.types import Reporter, UserError

# Errors that zipfile and numpy raise for a damaged archive.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    SyntaxError,
    TokenError,
)


def read_header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of a `.npy` file, which is left at its first number."""
    version = np.lib.format.read_magic(file)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{name} has format {version}")
    shape, fortran, dtype = readers[version](file)
    require_lengths(shape)
    return shape, fortran, dtype


def require_lengths(shape: tuple[int, ...]) -> None:
    """Raise ValueError for lengths that no array has: Python's integers have no bound."""
    if not all(0 <= length <= sys.maxsize for length in shape):
        raise ValueError(f"its shape is {[*shape]}")


class StreamedColumn:
    """An array inside an open archive; slices must be read in order, each row once."""

    def __init__(self, archive: zipfile.ZipFile, name: str, open_files: ExitStack) -> None:
        self.origin = archive, name, open_files
        entry = archive.getinfo(f"{name}.npy")
        self.file = open_files.enter_context(archive.open(entry))
        self.shape, fortran, self.dtype = read_header(self.file, name)
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise UserError(
                f"{name} holds Python objects, not numbers; save numbers:"
                " numpy.stack([numpy.asarray(x, numpy.float32) for x in values])"
            )
        if fortran and len(self.shape) > 1:
            raise UserError(f"{name} is stored column by column; save it in C order")
        rows = self.shape[0] if self.shape else 0
        if self.shape and self.file.tell() + rows * self.row_bytes != entry.file_size:
            raise ValueError(f"{name}.npy does not hold the {rows} rows its header promises")
        self.next_row = 0

    def again(self) -> StreamedColumn:
        """The same column from its first row on."""
        return StreamedColumn(*self.origin)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        assert start == self.next_row, "a streamed column is read in order"
        data = self.file.read((stop - start) * self.row_bytes)
        self.next_row = stop
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read an archive into a store at `output`; UserError for a bad archive."""
    require_file(path, "an .npz archive")
    with ExitStack() as open_files:
        try:
            archive = open_files.enter_context(zipfile.ZipFile(path))
            layout.refuse_bomb(
                path.stat().st_size, sum(entry.file_size for entry in archive.infolist())
            )
            writer = open_files.enter_context(StoreWriter(output))
            names = [e.removesuffix(".npy") for e in archive.namelist() if e.endswith(".npy")]
            _require_once(names)
            if len(names) == 1 and names[0] not in layout.KNOWN:
                return _objects(archive, names[0], path, writer)
            wanted = [name for name in layout.KNOWN if name in names]
            columns = {name: StreamedColumn(archive, name, open_files) for name in wanted}
            source = describe_file("npz", "NumPy archive", path)
            others = [name for name in names if name not in wanted]
            return layout.fill(writer, columns, names, others, path.stem, source)
        except DAMAGE as error:
            raise UserError(f"{path} is no .npz archive, or is damaged ({error})") from error
        except (NotImplementedError, RuntimeError) as error:  # encrypted, or unknown compression
            raise UserError(f"{path} cannot be unpacked ({error})") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _require_once(names: list[str]) -> None:
    """Raise UserError for a name that occurs twice: readers differ in which array they take."""
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise UserError(f"it holds {shown(name)} {count} times; leave one")


def _objects(archive: zipfile.ZipFile, name: str, path: Path, writer: StoreWriter) -> EpisodeStore:
    """Write the trajectories of an archive's only array, which holds Python objects."""
    with archive.open(f"{name}.npy") as file:
        value = trajectories_in(file, name)
    size = archive.getinfo(f"{name}.npy").file_size
    source = describe_file("npz", "NumPy archive", path)
    return trajectories.write(writer, value, size, path.stem, source)


def trajectories_in(file: Any, name: str) -> Any:
    """The inert value of an array of objects, which NumPy keeps as a pickle."""
    dtype = read_header(file, name)[2]
    if not dtype.hasobject:
        raise UserError(
            f"it holds one array {name[:80]!r}; save columns: numpy.savez('x.npz',"
            " observations=..., actions=..., rewards=..., terminals=...)"
        )
    try:
        return inert_pickle.loads(file.read())
    except Damaged as error:
        raise UserError(f"{shown(name)} is damaged ({error})") from error


def read_npy(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read the trajectories in a `.npy` file of objects into a store at `output`."""
    require_file(path, "a .npy file of trajectories")
    try:
        with open(path, "rb") as file:
            value = trajectories_in(file, path.stem)
        with StoreWriter(output) as writer:
            source = describe_file("npy", "NumPy array", path)
            return trajectories.write(writer, value, path.stat().st_size, path.stem, source)
    except DAMAGE as error:
        raise UserError(f"{path} is no .npy file, or is damaged ({error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
