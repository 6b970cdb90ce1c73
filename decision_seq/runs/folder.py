"""The folder of a run: created, found again, and locked by one launch at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from decision_seq.types import UserError

# never: begin a run; must: resume a run; auto: resume if there is a run, else begin one.
Resume = Literal["never", "must", "auto"]
LOCK = ".lock"


def open_run(output: Path, resume: Resume) -> Path | None:
    """Make the run's folder -> the outermost folder that was created, None if it existed.

    UserError when the folder cannot be made, holds a run that is not to be resumed, or holds no run
    to resume.
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
    """Whether the folder holds a run."""
    return (output / "config.yaml").is_file()


@contextmanager
def run_folder(output: Path, resume: Resume) -> Iterator[None]:
    """Create and lock the run's folder; it is removed again if the run could not begin."""
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
    """Lock the folder against other training processes; a killed process releases its lock."""
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
        if not _still_exists(handle, output / LOCK):  # the former holder has just deleted it
            raise UserError(f"another process has just removed {output}; try again")
        yield
    finally:
        os.close(handle)


def _still_exists(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def remove_empty(output: Path, made: Path) -> None:
    """Delete the empty folders from `output` up to `made`, unless another run now uses one."""
    (output / LOCK).unlink(missing_ok=True)
    for folder in (output, *output.parents):
        try:
            folder.rmdir()
        except OSError:
            return  # not empty: another run's
        if folder == made:
            return
