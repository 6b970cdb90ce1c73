"""The driver's handles of a peer: its Python environment and its worker process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


class PeerError(Exception):
    """Reason for leaving out a peer, in one line."""


@dataclass(frozen=True)
class Peer:
    """A compared library: `NAME_worker.py`, and `NAME.txt` where it needs its own environment."""

    name: str
    """Name of the peer and of its files."""
    folder: Path = FOLDER
    """Folder of the worker script and the requirements."""
    anyway: str | None = None
    """Requirement that pip installs without regard to its dependencies and Python version."""

    @property
    def requirements(self) -> Path:
        return self.folder / f"{self.name}.txt"

    @property
    def script(self) -> Path:
        return self.folder / f"{self.name}_worker.py"


def environment(peer: Peer, root: Path, pip_args: list[str]) -> Path:
    """The Python of a peer's environment, which is created in `root` where it does not exist.

    Raises PeerError with pip's reason.
    """
    home = root / peer.name
    python, ready = home / "bin" / "python", home / "installed.txt"
    wanted = f"{peer.requirements.read_text()}{peer.anyway or ''}"
    if ready.is_file() and ready.read_text() == wanted:
        return python
    print(f"{peer.name}: making its environment, {home}", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    pip += ["--disable-pip-version-check", *pip_args]
    commands = [
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)],
        [*pip, "--requirement", str(peer.requirements)],
    ]
    if peer.anyway:
        commands.append([*pip, "--no-deps", "--ignore-requires-python", peer.anyway])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError(f"cannot be installed: {_reason(done.stderr or done.stdout)}")
    ready.write_text(wanted)
    return python


def _reason(text: str) -> str:
    """The most informative line: pip's last ERROR, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it gave no reason"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


class Worker:
    """A worker process; its output other than answers goes to `log`."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str], timeout: float) -> None:
        self.log, self.timeout = log, timeout
        answers, pipe = os.pipe()
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, str(pipe)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                bufsize=1,
                env=env,
                pass_fds=(pipe,),
            )
        os.close(pipe)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()
        self.about: dict[str, Any] = {}

    def _read(self, answers: int) -> None:
        with os.fdopen(answers) as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")  # marks the end

    def answer(self) -> dict[str, Any]:
        """The worker's next answer; raises PeerError where none arrives."""
        try:
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            self.stop()
            raise PeerError(f"gave no answer within {self.timeout:g} s ({self.log})") from None
        if not line:
            code = self.process.wait()
            last = _reason(self.log.read_text())
            raise PeerError(f"its worker ended with code {code}: {last} ({self.log})")
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            self.stop()
            raise PeerError(f"answered {line.strip()!r}, which is no JSON ({self.log})") from None

    def turn(self, part: str, updates: int) -> float:
        """Seconds per update, in a turn of `updates`."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `answer` gives the reason
            print(f"{part} {updates}", file=self.process.stdin)
        return self.answer()["seconds"] / updates

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
