"""Identity of files and folders: store folder, checksums, change stamps and task by name."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decision_seq.reading import open_file
from decision_seq.types import UserError


def sha256(path: Path) -> str:
    """Hex digest of a regular file's bytes; Unreadable for a pipe, and for an absent file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of the folder that match, without those in hidden folders, sorted."""
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )


def stamp(path: Path, files: Sequence[Path] | None = None) -> dict[str, Any]:
    """Change stamp: sizes and modification times of a file, or of the `files` of a folder.

    A store is made again if its source's stamp differs from the one saved with it.
    """
    listed = [(str(f), f.stat()) for f in ([path] if files is None else files)]
    lines = [f"{name} {fact.st_size} {fact.st_mtime_ns}" for name, fact in listed]
    return {
        "path": str(path.resolve()),
        "bytes": sum(fact.st_size for _, fact in listed),
        "files": hashlib.sha256("\n".join(lines).encode(errors="replace")).hexdigest(),
    }


def describe_file(kind: str, what: str, path: Path) -> dict[str, Any]:
    """The `source` entry of a store's header for one file; `what` names the kind of file."""
    digest = sha256(path)
    return {
        "kind": kind,
        "description": f"{what} {path.name}, sha256 {digest[:12]}",
        "path": str(path.resolve()),
        "bytes": path.stat().st_size,
        "sha256": digest,
    }


def require_file(path: Path, what: str) -> None:
    """Raise UserError unless the path is a file that may be read and is not empty."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is no regular file; give {what}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; fetch it again")
    if not os.access(path, os.R_OK):  # libraries say of it that it is damaged
        raise UserError(f"{path} cannot be opened: {os.strerror(errno.EACCES)}")
