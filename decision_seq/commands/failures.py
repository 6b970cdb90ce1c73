"""What a command prints where it fails: one line, and a file with the full report of a bug.

Modules that only a report needs are imported there, so that commands start fast.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from decision_seq.commands.console import is_main_rank
from decision_seq.escaping import terminal
from decision_seq.formatting import json_text, message_of

BUG = 70  # the exit code of an unexpected error, EX_SOFTWARE of sysexits.h
DEBUG = "DECISION_SEQ_DEBUG"
PACKAGES = ("decision-seq", "torch", "numpy", "accelerate", "gymnasium", "mujoco", "h5py")


def debugging(option: bool) -> bool:
    """Whether tracebacks are shown: by `--debug`, or by the variable DECISION_SEQ_DEBUG."""
    return option or os.environ.get(DEBUG, "0") not in ("", "0")


def print_failure(line: str) -> None:
    """Print one line on this process, and leave it to the launcher, which prints it last."""
    line = terminal(line)
    print(f"decision-seq: {line}", file=sys.stderr, flush=True)
    tell_launcher(line)


def print_bug(error: BaseException, arguments: Sequence[str], debug: bool) -> None:
    """Print one line that names the file with the report, or the traceback where `debug` is."""
    rank = "" if is_main_rank() else f"rank {os.environ['RANK']}: "
    what = " ".join(f"{type(error).__name__}: {message_of(error)}".split())[:300].rstrip(": ")
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
        print_failure(f"{rank}{what}")
        return
    text = _report(error, arguments)
    path = _write(text)
    if path is None:  # no folder can be written: the report is worth its lines
        print(text, file=sys.stderr)
    where = "above" if path is None else f"in {path}"
    print_failure(
        f"{rank}unexpected error: {what} (the full report is {where}; --debug shows it here)"
    )


def _report(error: BaseException, arguments: Sequence[str]) -> str:
    """The traceback, with the facts that are needed to repeat it."""
    import platform
    import traceback

    lines = [
        f"command: decision-seq {' '.join(map(repr, arguments))}",
        f"folder: {os.getcwd() if os.path.isdir('.') else 'removed'}",
        f"python: {platform.python_version()} on {platform.platform()}",
        *(f"{name}: {_version(name)}" for name in PACKAGES),
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(lines)


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _write(text: str) -> Path | None:
    """Write a private file under a random name -> its path; None where no folder is writable."""
    import tempfile

    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(".txt", "decision-seq-error-", folder)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
    return None


def _folders() -> list[Path]:
    """The folders for reports: of the user's state, else for temporary files."""
    import tempfile

    state = os.environ.get("XDG_STATE_HOME")
    found = [Path(state)] if state else []
    with contextlib.suppress(RuntimeError):  # this user has no home folder
        found.append(Path.home() / ".local" / "state")
    folders = [path / "decision_seq" for path in found if path.is_absolute()]
    with contextlib.suppress(OSError):
        folders.append(Path(tempfile.gettempdir()))
    return folders


def tell_launcher(line: str) -> None:
    """Leave the line where torchrun and accelerate look for the reason of a process's end.

    They print their own traceback after it; without this it names no reason.
    """
    import time

    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path and not os.path.exists(path):
        text = json_text({"message": line, "timestamp": str(int(time.time()))})
        with contextlib.suppress(OSError), open(path, "x", encoding="utf-8") as file:
            file.write(text)
