"""Commands under an audit hook, which watches what they import, run, open and connect to.

Run as a script, it is the watched process:

    python -m tests.audit --folder DIR --forbid evil -- data inspect X --then train --dataset X

`audited` starts that process for a test. A violation is recorded and refused, so that nothing
happens; the process then ends with the code `VIOLATED`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIOLATED = 77
THEN = "--then"
RESULT = "audit-result "
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events -> the positions of the paths that they change.
CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "shutil.rmtree": (0,),
}
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen")
PROGRAMS = ("git", "nvidia-smi", "uname", "lscpu", "ldconfig")  # that we or torch ask for facts
CONNECTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo")


class Refused(RuntimeError):
    """The error that a violating call raises."""


class Watch:
    """Audit hook. folders: where files may be written; forbidden: modules that no one imports."""

    def __init__(self, folders: Sequence[Path], forbidden: Sequence[str]) -> None:
        self.folders = [os.path.realpath(folder) for folder in folders]
        self.forbidden = tuple(forbidden)
        ours = Path(__file__).parent.parent
        homes = (sys.prefix, sys.base_prefix, ours / "decision_seq", ours / "tests")
        self.code = tuple(os.path.realpath(home) + os.sep for home in homes)
        self.violations: list[str] = []
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy:
            return
        self.busy = True  # what the checks do themselves is not checked
        try:
            fault = self._fault(event, arguments)
            if fault:
                self.violations.append(fault)
        finally:
            self.busy = False
        if fault:
            raise Refused(fault)

    def _fault(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event in ("import", "pickle.find_class"):
            return self._of_module(event, str(arguments[0]))
        if event == "exec":
            return self._of_code(getattr(arguments[0], "co_filename", "<"))
        if event == "open":
            return self._of_open(*arguments)
        if event in CHANGES:
            places = CHANGES[event]
            found = (self._outside(arguments[at]) for at in places if at < len(arguments))
            return next((f"{event} {path}" for path in found if path), None)
        if event in STARTS:
            program = os.path.basename(str(arguments[0]))
            return None if program in PROGRAMS else f"{event} {str(arguments[:2])[:200]}"
        if event in CONNECTS:
            return f"{event} {arguments[1:]}"
        return None

    def _of_module(self, event: str, module: str) -> str | None:
        """Imports of a forbidden module, or classes that a pickle takes from one."""
        names = {module, module.partition(".")[0]}
        return f"{event} {module}" if names & set(self.forbidden) else None

    def _of_code(self, file: str) -> str | None:
        """Code of a file outside the installation; generated code has a name like `<string>`."""
        if file.startswith("<") or os.path.realpath(file).startswith(self.code):
            return None
        return f"exec {file}" if os.path.exists(file) else None

    def _of_open(self, path: Any, mode: Any, flags: Any) -> str | None:
        writes = bool(isinstance(flags, int) and flags & WRITING) or any(
            letter in str(mode or "") for letter in "wax+"
        )
        outside = self._outside(path) if writes else None
        return f"open for writing {outside}" if outside else None

    def _outside(self, path: Any) -> str | None:
        """The path if it lies outside all folders; None if it may be written."""
        if isinstance(path, int):  # an open file
            return None
        real = os.path.realpath(os.fsdecode(path))
        if real.startswith(("/dev/null", "/dev/shm/", "/proc/self/")):
            return None
        inside = any(real == folder or real.startswith(folder + os.sep) for folder in self.folders)
        return None if inside else real


@dataclass(frozen=True)
class Audit:
    """What a watched process did."""

    codes: list[int]
    """Exit code of each command; 1 for an exception that escaped."""
    violations: list[str]
    """What it tried and may not."""
    output: str
    """Its standard output and error."""


def audited(
    commands: Sequence[Sequence[Any]],
    folders: Sequence[Path],
    forbidden: Sequence[str] = (),
    cwd: Path | None = None,
    timeout: float = 300,
    **environment: str,
) -> Audit:
    """Run commands of the command line in one watched process, one after another.

    folders: where they may write; forbidden: modules that nothing may import.
    """
    line: list[str] = []
    for command in commands:
        line += [*([THEN] if line else []), *map(str, command)]
    options = [*(f"--folder={folder}" for folder in folders), *(f"--forbid={m}" for m in forbidden)]
    root = str(Path(__file__).parent.parent)
    variables = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"}
    # torch makes the folder of its compiler when it is imported.
    variables["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folders[0]) / "inductor")
    variables["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")]).strip(":")
    variables["TMPDIR"] = str(folders[0])
    run = subprocess.run(
        [sys.executable, "-m", "tests.audit", *options, "--", *line],
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    found = [text for text in run.stdout.splitlines() if text.startswith(RESULT)]
    assert found, f"the watched process ended with {run.returncode}:\n{run.stdout}"
    result = json.loads(found[-1].removeprefix(RESULT))
    assert (run.returncode == VIOLATED) == bool(result["violations"])
    return Audit(result["codes"], result["violations"], run.stdout)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("--forbid", action="append", default=[])
    parser.add_argument("line", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    line = [*options.line[options.line[:1] == ["--"] :], THEN]
    # The import of glfw asks for its version in another process; mujoco may import it, or not.
    import glfw  # noqa: F401
    import mujoco  # noqa: F401

    from decision_seq.cli import main as run

    watch = Watch(options.folder, options.forbid)
    sys.addaudithook(watch)
    codes = []
    while line:
        end = line.index(THEN)
        command, line = line[:end], line[end + 1 :]
        _say(f"audit: {' '.join(command)}")
        try:
            codes.append(run(command))
        except SystemExit as error:
            codes.append(error.code if isinstance(error.code, int) else 1)
        except BaseException:
            traceback.print_exc()
            codes.append(1)
        sys.stderr.flush()
    for violation in watch.violations:
        _say(f"audit: violation: {violation}")
    _say(RESULT + json.dumps({"codes": codes, "violations": watch.violations}))
    return VIOLATED if watch.violations else 0


if __name__ == "__main__":
    sys.exit(main())
