"""The folder of a run: made, found again, and held by one launch at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from decision_seq.types import UserError

# never: begin a run; must: go on with one; auto: go on where there is one, else begin.
Resume = Literal["never", "must", "auto"]
LOCK = ".lock"


def open_run(output: Path, resume: Resume) -> Path | None:
    """Make the run's folder -> the outermost folder that had to be made, None if it was there.

    UserError when it cannot be made, already holds a run, or holds none to resume.
    """
    if resume == "must" and not is_run(output):
        what = "holds no config.yaml" if output.exists() else "does not exist"
        raise UserError(f"nothing to resume: {output} {what}")
    missing = [path for path in (output, *output.parents) if not path.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        taken = any(path.name != LOCK for path in output.iterdir())
    except OSError as error:
        raise UserError(f"cannot use the output folder {output}: {error.strerror}") from error
    if resume == "auto" and taken and not is_run(output):
        raise UserError(f"{output} is not empty and holds no run; name another --output")
    if taken and resume == "never":
        raise UserError(
            f"{output} is not empty; add --resume to go on with it, or name another --output"
        )
    return missing[-1] if missing else None


def is_run(output: Path) -> bool:
    """Whether a run has begun in the folder."""
    return (output / "config.yaml").is_file()


@contextmanager
def run_folder(output: Path, resume: Resume) -> Iterator[None]:
    """The folder, made where needed and held; what could not begin leaves nothing behind."""
    made = open_run(output, resume)
    with held(output):
        try:
            yield
        except BaseException:  # Ctrl-C too
            if made is not None and not is_run(output):
                remove_empty(output, made)
            raise


@contextmanager
def held(output: Path) -> Iterator[None]:
    """While this lasts no other process trains in the folder; a killed one lets go of it."""
    try:
        handle = os.open(output / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"cannot write in {output}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {output}; wait for it, or name another --output"
            ) from error
        except OSError as error:
            raise UserError(
                f"{output} is on a disk without file locks ({error.strerror}): two launches could"
                " spoil each other's run; name an --output on another disk"
            ) from error
        if not _still_there(handle, output / LOCK):  # whoever held it has just taken it away
            raise UserError(f"another process has just left {output}; try again")
        yield
    finally:
        os.close(handle)


def _still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def remove_empty(output: Path, made: Path) -> None:
    """Take away the folders from `output` up to `made`; another run may have moved in beside."""
    (output / LOCK).unlink(missing_ok=True)
    for folder in (output, *output.parents):
        try:
            folder.rmdir()
        except OSError:
            return  # not empty: somebody else's
        if folder == made:
            return
