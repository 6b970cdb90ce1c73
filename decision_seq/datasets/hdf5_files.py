"""HDF5 files whose writing fails with an error where the disk is full.

The HDF5 library ends the process with a segmentation fault if it cannot write when it closes a
file. So it never learns of a failure here: what no longer fits is kept in memory until the file is
closed, and the system's error is raised then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Kept:
    """A binary file for h5py; after a failed write it goes on in memory."""

    def __init__(self, path: Path, create: bool) -> None:
        # Unbuffered: h5py writes whole blocks.
        self.file = open(path, "w+b" if create else "r+b", buffering=0)  # noqa: SIM115
        self.at = 0
        self.size = self.file.seek(0, os.SEEK_END)
        self.error: OSError | None = None
        self.later: list[tuple[int, bytes]] = []  # writes after the failure

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        self.at = start + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def write(self, data: Any) -> int:
        block = bytes(data)
        try:
            if self.error is None:
                self.file.seek(self.at)
                done = 0
                while done < len(block):
                    done += self.file.write(block[done:])
        except OSError as error:
            self.error = error
        if self.error is not None:
            self.later.append((self.at, block))
        self.at += len(block)
        self.size = max(self.size, self.at)
        return len(block)

    def readinto(self, into: Any) -> int:
        view = memoryview(into).cast("B")
        found = bytearray(len(view))
        self.file.seek(self.at)
        read = self.file.readinto(memoryview(found))
        for start, block in self.later:
            first, last = max(start, self.at), min(start + len(block), self.at + len(view))
            if first < last:
                found[first - self.at : last - self.at] = block[first - start : last - start]
                read = max(read, last - self.at)
        view[:read] = found[:read]
        self.at += read
        return read

    def read(self, count: int = -1) -> bytes:
        """As of any file; h5py looks for it and calls `readinto`."""
        found = bytearray(max(0, self.size - self.at) if count < 0 else count)
        return bytes(found[: self.readinto(found)])

    def truncate(self, size: int) -> int:
        if self.error is None:
            try:
                self.file.truncate(size)
            except OSError as error:
                self.error = error
        self.size = size
        return size

    def flush(self) -> None:
        """Writing is unbuffered."""

    def close(self) -> None:
        """Close the file; the error of a failed write is raised here."""
        self.file.close()
        self.check()

    def check(self) -> None:
        """Raise the error of a failed write."""
        if self.error is not None:
            raise self.error


@contextmanager
def created(path: Path) -> Iterator[Any]:
    """A new h5py.File. OSError where the disk is full: at `file.kept.check()`, or at the end."""
    with _class()(path, "w") as file:
        yield file


@contextmanager
def safe_library() -> Iterator[None]:
    """Context in which h5py.File itself writes in this way, for libraries that call it."""
    import h5py

    former = h5py.File
    h5py.File = _class()
    try:
        yield
    finally:
        h5py.File = former


def _class() -> Any:
    """A subclass of h5py.File, which is imported where it is used."""
    import h5py

    class File(h5py.File):
        kept: Kept | None = None

        def __init__(self, name: Any, mode: str = "r", **options: Any) -> None:
            if mode in ("w", "a", "r+") and isinstance(name, str | os.PathLike):
                path = Path(name)
                create = mode == "w" or (mode == "a" and not path.exists())
                self.kept = Kept(path, create)
                name, mode = self.kept, "w" if create else "r+"
            super().__init__(name, mode, **options)

        def close(self) -> None:
            super().close()
            if self.kept is not None:
                self.kept.close()

    return File
