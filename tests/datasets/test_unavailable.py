"""Stores that cannot be opened now are neither damaged nor replaced; other users' are skipped."""

import errno
import itertools
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from decision_seq.datasets import open_dataset
from decision_seq.datasets.catalog import catalog
from decision_seq.datasets.d4rl import reader as d4rl
from decision_seq.datasets.joining import join
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.column import StoreDamaged
from decision_seq.datasets.store.root import store_root
from decision_seq.types import UserError
from tests.conftest import make_episode
from tests.waiting import LIMIT


def failing(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


REASONS = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
]


def content(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def failing_for(name: str, error: BaseException) -> Callable[..., int]:
    """`os.open`, which fails for files of one name."""
    real = os.open

    def opened(path: Any, *more: Any, **keywords: Any) -> int:
        if os.fspath(path).endswith(name):
            raise error
        return real(path, *more, **keywords)

    return opened


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("numpy.load", MemoryError()),
        *itertools.product(("numpy.load", "header.json", "rewards.npy"), REASONS),
    ],
    ids=repr,
)
def test_a_sound_store_is_left_alone(
    what: str,
    error: BaseException,
    write_d4rl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_d4rl()
    open_dataset(str(path))
    parts = [open_dataset(str(path))] * 2
    join("both", parts, store_root())
    before = content(store_root())
    with monkeypatch.context() as patched:
        if what == "numpy.load":
            patched.setattr(what, failing(error))
        else:
            patched.setattr(os, "open", failing_for(what, error))
        for again in (lambda: open_dataset(str(path)), lambda: join("b", parts, store_root())):
            with pytest.raises(UserError, match="cannot be opened now: ") as caught:
                again()
            assert not isinstance(caught.value, StoreDamaged)
    assert content(store_root()) == before
    assert open_dataset(str(path)).num_transitions == 125


def test_a_store_is_not_replaced_while_it_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: dict[str, Any] = {
        "env_id": None,
        "family": None,
        "max_episode_steps": None,
        "transitions_in": 10,
        "has_timeouts": True,
    }

    def write(seed: int) -> EpisodeStore:
        with StoreWriter(tmp_path / "store") as writer:
            writer.append(make_episode(10, seed))
            return writer.finish("x", {"description": "x"}, **facts)

    before = write(0).checksum
    with monkeypatch.context() as patched:
        patched.setattr(np, "load", failing(OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(UserError, match="cannot be opened now: Too many open files"):
            write(1)
    assert EpisodeStore.open(tmp_path / "store").checksum == before
    assert write(1).checksum != before


def test_too_many_open_files_leave_the_store(write_d4rl: Callable[..., Path]) -> None:
    """The real limit, at every number of files that opening needs."""
    store = open_dataset(str(write_d4rl()))
    before = content(store_root())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)
    os.close(first)
    refused = 0
    for more in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + more, hard))
        try:
            EpisodeStore.open_sound(store.path)
        except UserError as error:
            refused += "Too many open files" in str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused
    assert content(store_root()) == before


def test_a_damaged_store_is_made_again(write_d4rl: Callable[..., Path]) -> None:
    path = write_d4rl()
    store = open_dataset(str(path))
    (store.path / "rewards.npy").write_bytes(b"")
    assert open_dataset(str(path)).num_transitions == 125
    (store.path / "header.json").unlink()
    assert open_dataset(str(path)).num_transitions == 125


AS_NOBODY = """
import contextlib, io, os, sys
from decision_seq.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main(sys.argv[1:])  # imports what it needs, which the other user may not be able to read
os.setgroups([]); os.setgid(65534); os.setuid(54321)
sys.exit(main(sys.argv[1:]))
"""


def list_as_nobody(variables: dict[str, str]) -> subprocess.CompletedProcess:
    """`data list` by a user whose number has no name, and without HOME."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "data", "list", "--json"],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_folders_do_not_spoil_the_list() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are private
        folder = Path(name)
        folder.chmod(0o755)
        for private in ("stores/mine", "d4rl", "minari/mujoco"):
            (folder / private).mkdir(parents=True)
            (folder / private / "header.json").touch()
            (folder / private).chmod(0o700)
        variables = {
            "DECISION_SEQ_DATA": str(folder / "stores"),
            "MINARI_DATASETS_PATH": str(folder / "minari"),
            "D4RL_DATASET_DIR": str(folder / "d4rl"),
        }
        listed = list_as_nobody(variables)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert '"bundled/hopper-medium"' in listed.stdout


def test_a_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECISION_SEQ_DATA")
    monkeypatch.setattr(Path, "home", failing(RuntimeError("Could not determine home directory.")))
    with pytest.raises(UserError, match=r"no home folder; name a folder .* by DECISION_SEQ_DATA"):
        catalog()
    monkeypatch.setenv("DECISION_SEQ_DATA", "stores")
    assert catalog("d4rl")
    with pytest.raises(UserError, match="by D4RL_DATASET_DIR, or set HOME"):
        d4rl.download("hopper-medium")
