"""NumPy archives in D4RL's flat layout (`d4rl/layout.py`).

Columns are streamed from the archive, so that it may be larger than memory. An archive that would
unpack to an implausible size is refused.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from tokenize import TokenError

import numpy as np

from decision_seq.datasets.d4rl import layout
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


class StreamedColumn:
    """An array inside an open archive; slices must be read in order, each row once."""

    def __init__(self, archive: zipfile.ZipFile, name: str, open_files: ExitStack) -> None:
        entry = archive.getinfo(f"{name}.npy")
        self.file = open_files.enter_context(archive.open(entry))
        version = np.lib.format.read_magic(self.file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name}.npy has format {version}")
        header = (
            np.lib.format.read_array_header_1_0(self.file)
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0(self.file)
        )
        self.shape, fortran, self.dtype = header
        self.row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise UserError(f"{name} holds Python objects, not numbers")
        if fortran and len(self.shape) > 1:
            raise UserError(f"{name} is stored column by column; save it in C order")
        rows = self.shape[0] if self.shape else 0
        if self.shape and self.file.tell() + rows * self.row_bytes != entry.file_size:
            raise ValueError(f"{name}.npy does not hold the {rows} rows its header promises")
        self.next_row = 0

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
            wanted = [name for name in (*layout.REQUIRED, *layout.OPTIONAL) if name in names]
            columns = {name: StreamedColumn(archive, name, open_files) for name in wanted}
            found = ", ".join(sorted(names)) or "nothing"
            source = describe_file("npz", "NumPy archive", path)
            return layout.fill(writer, columns, found, path.stem, source)
        except DAMAGE as error:
            raise UserError(f"{path} is no .npz archive, or is damaged ({error})") from error
        except (NotImplementedError, RuntimeError) as error:  # encrypted, or unknown compression
            raise UserError(f"{path} cannot be unpacked ({error})") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
