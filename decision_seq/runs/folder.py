"""The folder of a run: created, found again, and locked by one launch at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from decision_seq.machine import files
from decision_seq.types import UserError

# never: begin a run; must: resume a run; auto: resume if there is a run, else begin one.
Resume = Literal["never", "must", "auto"]
LOCK = ".lock"
TRAINING = "training"


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
        files.sweep(output)
        taken = any(path.name != LOCK for path in output.iterdir())
    except OSError as error:
        raise UserError(f"cannot use the output folder {output}: {error.strerror}") from error
    if resume == "auto" and taken and not is_run(output):
        raise UserError(f"{output} is not empty and holds no run; name another --output")
    if taken and resume == "never":
        raise UserError(
            f"{output} is not empty; add --resume to go on with it (in Python, resume='must'), or"
            " name another --output"
        )
    return missing[-1] if missing else None


def is_run(output: Path) -> bool:
    """Whether the folder holds a run."""
    return (output / "config.yaml").is_file()


class Held:
    """A locked folder, whose path may come to name another folder or none."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self.handle = path, handle

    def require_there(self) -> None:
        """UserError unless the path still names the locked folder; nothing may be written then."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self.handle), os.stat(self.path)):
                return
        raise UserError(
            f"{self.path} was moved or removed during the run, which stops; what was saved is in"
            " the moved folder: go on there with --resume"
        )


@contextmanager
def run_folder(output: Path, resume: Resume) -> Iterator[Held]:
    """Create and lock the run's folder; it is removed again if the run could not begin."""
    made = open_run(output, resume)
    with held(output) as folder:
        try:
            yield folder
        except BaseException:  # Ctrl-C too
            if made is not None and not is_run(output):
                remove_empty(output, made)
            raise


@contextmanager
def held(output: Path, work: str = TRAINING) -> Iterator[Held]:
    """Lock the folder against other processes; a killed process releases its lock.

    Both the folder itself and a file in it are locked. A file can be removed, and then protects
    nothing; a network disk may have locks for files only. work: what another process is doing
    there, for the message.
    """
    with contextlib.ExitStack() as opened:

        def open_(path: Path, flags: int) -> int:
            handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
            opened.callback(os.close, handle)
            return handle

        try:
            folder = open_(output, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _taken(output, work) from error
            except OSError:
                pass  # a network disk: the lock of the file has to do
            flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = open_(output / LOCK, flags)
        except OSError as error:
            raise UserError(f"cannot write in {output}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(output, work) from error
        except OSError as error:
            raise UserError(
                f"{output} is on a disk without file locks ({error.strerror}): two launches could"
                " spoil each other's run; name an --output on another disk"
            ) from error
        still = _still_exists(handle, output / LOCK) and _still_exists(folder, output)
        if not still:  # the former holder has just deleted it
            raise UserError(f"another process has just removed {output}; try again")
        with contextlib.suppress(OSError):  # a full disk; the holder's number is only a hint
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield Held(output, folder)


def require_idle(output: Path) -> None:
    """UserError if another process is training in the folder, which may not exist."""
    if output.is_dir():
        with held(output):
            pass


def _taken(output: Path, work: str) -> UserError:
    """The error for a folder that another process has locked."""
    return UserError(
        f"another process is {work} in {output}{_holder(output)}; wait for it, or name another"
        " --output"
    )


def _holder(output: Path) -> str:
    """The number and host of the process that locked the folder, where it has said so."""
    try:
        handle = os.open(output / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            text = os.read(handle, 200).decode(errors="replace").strip()
        finally:
            os.close(handle)
    except OSError:
        return ""
    return f" ({text})" if text.startswith("process ") and text.isprintable() else ""


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
