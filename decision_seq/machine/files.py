"""Files and folders that appear whole or not at all, under names that nobody can foresee.

A temporary name is random and created exclusively, so two processes never share one (their numbers
repeat in containers) and no link that somebody placed there is followed. It is locked while its
process lives; what a killed process left has no lock, and the next writer in that folder removes
it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decision_seq.formatting import message_of
from decision_seq.types import UserError

PARTIAL = ".partial-"
_TEMPORARY = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{16}(\.\w+)?")
# What libraries write of a full disk where they raise no OSError of it.
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXT = re.compile(
    r"no space left on device|disk quota exceeded|file too large"
    r"|(?:os error|errno =) (?:28|27|122)\b",
    re.IGNORECASE,
)
# The system could not open a file now; the file may be sound.
UNAVAILABLE = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
)


def as_path(value: Any, what: str) -> Path:
    """A path that is given in Python; UserError, which says what it is of, for no path."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{what} is of type {type(value).__name__}; give its name or path")
    return Path(value)


def disk_full(error: BaseException) -> str | None:
    """The system's words for a full disk if that caused the error, else None."""
    seen: BaseException | None = error
    for _ in range(20):  # a chain of causes may be a circle
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno in _FULL_NUMBERS:
            return os.strerror(seen.errno)
        found = _FULL_TEXT.search(message_of(seen)[:2000])
        if found is not None and not isinstance(seen, UserError):
            return "File too large" if "27" in found[0] else os.strerror(errno.ENOSPC)
        seen = seen.__cause__ or seen.__context__
    return None


def unavailable(error: BaseException) -> str | None:
    """The system's words where it cannot open a file now, though the file may be sound.

    They are looked for in the error and in its causes.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if isinstance(seen, OSError) and seen.errno in UNAVAILABLE:
            return os.strerror(seen.errno)
        if isinstance(seen, MemoryError):
            return "not enough memory"
        seen = None if seen is None else seen.__cause__
    return None


def _lock(handle: int, wait: bool = False) -> bool:
    """Lock an open file or folder -> whether this process may now remove it.

    wait: until another process has let it go.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process has it, or the disk has no locks
        return False
    return True


def _names(handle: int, path: Path) -> bool:
    """Whether the path still names the open file or folder."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


@contextmanager
def _claimed(parent: Path, suffix: str, folder: bool) -> Iterator[Path]:
    """A new temporary file or folder in `parent`, locked; removed afterwards if still there."""
    sweep(parent)
    while True:
        path = parent / f"{PARTIAL}{os.urandom(8).hex()}{suffix}"
        if folder:
            path.mkdir()
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if not folder:  # no file can be made there, as in /proc
                raise
            continue  # another process removed the folder before it was locked
        _lock(handle, wait=True)  # another process may have found it unlocked, and remove it
        if _names(handle, path):
            break
        os.close(handle)
    try:
        yield path
    finally:
        # Only while it is still the one made here: it may have been renamed to its place.
        if _names(handle, path):
            _remove(path)
        os.close(handle)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left under temporary names in the folder."""
    try:
        names = [name for name in os.listdir(folder) if _TEMPORARY.fullmatch(name)]
    except OSError:
        return
    for name in names:
        path = folder / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # a link, or not this user's
            continue
        try:
            if _lock(handle) and _names(handle, path):
                _remove(path)
        finally:
            os.close(handle)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new empty folder in `parent`, removed afterwards unless it was renamed."""
    with _claimed(parent, "", folder=True) as path:
        yield path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty temporary file beside `path`, renamed to it on success and removed on failure.

    A reader finds the old file or the new one, never a part.
    """
    with _claimed(path.parent, path.suffix[:20], folder=False) as temporary:
        yield temporary
        flush(temporary)  # else a crash of the machine may leave an empty file
        os.replace(temporary, path)


@contextmanager
def whole(output: Path) -> Iterator[Path]:
    """Temporary path of the same name, renamed to `output` on success and removed on failure.

    What has appeared at `output` meanwhile is not replaced. UserError when it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(output.parent) as folder:
            partial = folder / output.name
            yield partial
            grant(partial)
            try:
                rename_new(partial, output)
            except FileExistsError as error:
                raise UserError(f"{output} exists by now; name another --output") from error
    except Exception as error:
        full = disk_full(error)
        if full is None and not isinstance(error, OSError):
            raise
        words = full or getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"cannot write {output}: {words}") from error


def add_text(folder: Path, name: str, suffix: str, text: str) -> Path:
    """Write a text file, whole or not at all, under a name that no file has -> its path.

    The name is NAME + SUFFIX, or NAME-2 + SUFFIX and so on where that is taken; two processes never
    take the same one. A folder that this call has made is removed where it stays empty.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with temporary_folder(folder) as own:
            partial = own / "text"
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")
            flush(partial)
            for number in itertools.count(1):
                path = folder / f"{name}{'' if number == 1 else f'-{number}'}{suffix}"
                with contextlib.suppress(FileExistsError):
                    rename_new(partial, path)
                    return path
    except OSError:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    raise AssertionError  # the numbers do not end


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder; FileExistsError if anything has the new name."""
    if source.is_dir():
        target.mkdir()  # takes the name; an empty folder can then be replaced
        try:
            os.rename(source, target)
        except OSError:
            target.rmdir()
            raise
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            os.replace(source, target)
        except OSError:
            target.unlink()
            raise
    else:
        os.unlink(source)


def grant(path: Path) -> None:
    """Give files the permissions of the user's umask; some libraries write them privately."""
    folder = path if path.is_dir() else path.parent
    mode = folder.stat().st_mode & 0o666
    files = [path]
    if path.is_dir():
        files = [Path(base) / name for base, _, names in os.walk(path) for name in names]
    for file in files:
        found = file.lstat().st_mode
        if not file.is_symlink() and found & 0o666 != mode:
            file.chmod(found & 0o111 | mode)


def flush(path: Path) -> None:
    """Flush a file or folder to the disk, to survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
