"""Tests of files and folders that appear whole or not at all."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from decision_seq.config import save_text
from decision_seq.machine import files
from decision_seq.machine.files import (
    add_text,
    disk_full,
    rename_new,
    replacing,
    sweep,
    temporary_folder,
    whole,
)
from decision_seq.types import UserError


@contextmanager
def umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_users_umask_holds(mask: int, tmp_path: Path) -> None:
    with umask(mask):
        save_text(tmp_path / "text", "x")
        with whole(tmp_path / "folder") as partial:
            partial.mkdir()
            os.close(os.open(partial / "private", os.O_CREAT | os.O_WRONLY, 0o600))
        with whole(tmp_path / "file") as partial:
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    assert mode(tmp_path / "text") == mode(tmp_path / "file") == 0o666 & ~mask
    assert mode(tmp_path / "folder" / "private") == 0o666 & ~mask
    assert mode(tmp_path / "folder") == 0o777 & ~mask


def test_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    save_text(path, "former")

    def interrupted() -> None:
        with replacing(path) as partial:
            assert partial.suffix == ".json"
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".text.partial", "text.partial", ".partial-text", "text"])
def test_a_link_in_the_place_of_a_file_is_not_followed(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(precious)
    save_text(tmp_path / "run" / "text", "new")
    assert precious.read_text() == "mine"
    assert (tmp_path / "run" / "text").read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "link"])
@pytest.mark.parametrize("made", ["file", "folder"])
@pytest.mark.parametrize("links", [True, False])
def test_what_appeared_meanwhile_is_not_replaced(
    kind: str, made: str, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    output = tmp_path / "output"

    def write() -> None:
        with whole(output) as partial:
            partial.touch() if made == "file" else partial.mkdir()
            if kind == "file":
                output.write_text("theirs")
            elif kind == "link":
                output.symlink_to("nowhere")
            else:
                output.mkdir()
                if kind == "folder":
                    (output / "theirs").touch()

    with pytest.raises(UserError, match="exists by now; name another"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert output.is_symlink() or output.is_dir() or output.read_text() == "theirs"
    if kind == "folder":
        assert (output / "theirs").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_free_name_is_taken(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    (tmp_path / "a").write_text("x")
    rename_new(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "x"


LEAVES = """
import os, signal, sys
from pathlib import Path
from decision_seq.machine.files import replacing, temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder, replacing(Path(sys.argv[1]) / "x.json") as file:
    (folder / "part").touch()
    print("ready", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_only_the_remains_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in (".partial-OWNER--set-0123456789ab", ".partial-step-00000010", ".hidden"):
        (tmp_path / name).mkdir()  # downloads to go on with, and others' business
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    before = set(tmp_path.iterdir())
    assert len(before) == 5
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == before  # its process lives
    process.communicate("\n")
    with temporary_folder(tmp_path) as folder:  # the next command that writes there
        assert len(set(tmp_path.iterdir())) == 4
        sweep(tmp_path)
        assert folder.is_dir()  # this one is at work
    assert {path.name for path in before if path.is_dir() and not path.name[9:].isalnum()} == {
        path.name for path in tmp_path.iterdir()
    }


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = files._lock, []

    def late(handle: int, wait: bool = False) -> bool:
        if not seen:
            seen.extend(tmp_path.iterdir())
            seen[0].rmdir()  # another process was faster
        return lock(handle, wait)

    monkeypatch.setattr(files, "_lock", late)
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
        assert folder != seen[0]


def test_a_folder_that_is_being_swept_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has locked it, and removes it a moment later."""
    lock, sweepers = files._lock, []

    def late(handle: int, wait: bool = False) -> bool:
        if not sweepers:
            (path,) = tmp_path.iterdir()
            other = os.open(path, os.O_RDONLY)
            assert lock(other)

            def remove() -> None:
                path.rmdir()
                os.close(other)

            sweepers.append(Timer(0.1, remove))
            sweepers[0].start()
        return lock(handle, wait)

    monkeypatch.setattr(files, "_lock", late)
    with temporary_folder(tmp_path) as folder:
        sweepers[0].join()
        assert folder.is_dir()


def test_a_text_takes_the_first_free_name(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "texts"
    paths = [add_text(folder, "a", ".json", str(number)) for number in range(3)]
    assert [path.name for path in paths] == ["a.json", "a-2.json", "a-3.json"]
    assert [path.read_text() for path in paths] == ["0", "1", "2"]
    assert set(folder.iterdir()) == set(paths)


def test_a_name_is_given_back_where_the_file_cannot_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "gone", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


FULL: list[tuple[Exception, bool]] = [
    (OSError(errno.ENOSPC, "x"), True),
    (OSError(errno.EDQUOT, "x"), True),
    (RuntimeError("Unable to flush: errno = 28, error message = 'No space left on device'"), True),
    (ValueError("I/O error: No space left on device (os error 28)"), True),
    (OSError(errno.EACCES, "x"), False),
    (RuntimeError("os error 280"), False),
    (UserError("about no space left on device"), False),
]


@pytest.mark.parametrize(("error", "full"), FULL, ids=lambda value: str(value)[:20])
def test_what_a_full_disk_looks_like(error: Exception, full: bool, tmp_path: Path) -> None:
    assert (disk_full(error) is not None) is full
    caused = KeyError("x")
    caused.__cause__ = error
    assert (disk_full(caused) is not None) is full
    if full:
        with pytest.raises(UserError, match="cannot write"), whole(tmp_path / "x"):
            raise caused
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def limited() -> Iterator[Callable[[], None]]:
    """Function that limits the size of files, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_text_on_a_full_disk_is_one_line(tmp_path: Path, limited: Callable[[], None]) -> None:
    limited()
    with pytest.raises(UserError, match=r"cannot write .*text: File too large"):
        save_text(tmp_path / "text", "x" * 2000)
    assert list(tmp_path.iterdir()) == []
