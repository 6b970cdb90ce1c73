"""D4RL's datasets by name, and their files on its host (files.tsv)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class PublishedFile:
    """A file on D4RL's host."""

    path: str
    """Path on the host."""
    bytes: int | None
    """Size; None if unknown."""
    sha256: str | None
    """Beginning of the SHA-256; None if unknown."""

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name


@cache
def published() -> dict[str, PublishedFile]:
    """D4RL's datasets, name -> file: all of Gym, Adroit, AntMaze, Maze2D and Kitchen."""
    table = Path(__file__).with_name("files.tsv").read_text(encoding="utf-8").splitlines()
    rows = csv.reader((line for line in table if not line.startswith("#")), delimiter="\t")
    return {
        name: PublishedFile(
            path, None if size == "-" else int(size), None if digest == "-" else digest
        )
        for name, path, size, digest in rows
    }
