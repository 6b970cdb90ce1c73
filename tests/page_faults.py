"""What is wrong with a command of a page, found without running it."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from functools import cache

from decision_seq.commands import build_parser
from decision_seq.commands.configuration import configure
from decision_seq.commands.parsing import parsers_below
from decision_seq.recipes import table_path
from decision_seq.sweep.grid import read_grid
from decision_seq.types import UserError
from tests import pages
from tests.pages import ROOT, Command

EXTENDING = "decision_seq/EXTENDING.md"
# Pages about plugins name what exists only while the plugin is loaded; test_plugins.py and
# test_extending.py run them.
OF_PLUGINS = ("experiments/plugin-template/README.md", EXTENDING)
# Words of a page that stand for a table or a recipe of the reader's choice.
STAND_INS = {("sweep", "NAME"): "gym-medium", ("train", "NAME"): "dt/gym"}


def fault(one: Command) -> str | None:
    """What is wrong with a command; None for a sound one. Nothing is run."""
    arguments = one.arguments
    if arguments is not None:
        return _fault_of_ours(one, list(arguments))
    program, *rest = one.words
    checks: dict[str, Callable[[list[str]], str | None]] = {
        "make": _fault_of_make,
        "pip": _fault_of_pip,
        "python": _fault_of_script,
        "source": lambda words: None if words == [".venv/bin/activate"] else "unknown file",
        "sbatch": lambda words: None if (ROOT / words[-1]).exists() else "no such file",
    }
    if program not in checks:
        return f"unknown program {program}"
    return checks[program](rest)


def _fault_of_ours(one: Command, arguments: list[str]) -> str | None:
    said = io.StringIO()
    parser = build_parser()
    if one.page in OF_PLUGINS and arguments[0] == "returns":  # the template's verb
        return None
    arguments = [STAND_INS.get((arguments[0], word), word) for word in arguments]
    if only_named(arguments):
        arguments = [*arguments, "--help"]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            chosen, rest = parser.parse_known_args(arguments)
        except SystemExit as stop:
            return None if stop.code == 0 else said.getvalue()
    if rest and not chosen.takes_overrides:
        return f"unrecognised argument {rest[0]}"
    if chosen.takes_overrides and one.page not in OF_PLUGINS:
        chosen.overrides, chosen.arguments = rest, arguments
        return _error_of(lambda: configure(chosen))
    if chosen.verb == "sweep":
        return _error_of(lambda: _read_grid(chosen))
    return None


def _read_grid(chosen: argparse.Namespace) -> None:
    path = table_path(chosen.file)
    if chosen.set or chosen.file.endswith(".yaml"):  # tests/sweep reads ours
        read_grid(path, chosen.set, 1)


@cache
def verbs() -> frozenset[str]:
    """Every verb and verb of a verb, with the program's name: `decision-seq data list`."""
    return frozenset(one.prog for one in parsers_below(build_parser()))


def only_named(arguments: Sequence[str]) -> bool:
    """Whether the arguments are a verb without what it needs: `decision-seq data convert`."""
    return " ".join(("decision-seq", *arguments)) in verbs()


def _error_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def _fault_of_make(words: list[str]) -> str | None:
    """Also checks the command of ours that the target expands to."""
    makefile = (ROOT / "Makefile").read_text()
    if not re.search(rf"^\.PHONY:.* {words[0]}\b", makefile, re.M):
        return f"unknown target {words[0]}"
    given = [word.partition("=")[0] for word in words[1:]]
    unknown = [name for name in given if not re.search(rf"^{name} *\?=", makefile, re.M)]
    if unknown:
        return f"unknown variable {unknown[0]}"
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr
    for line in done.stdout.replace("\\\n", " ").splitlines():
        if line.startswith(".venv/bin/decision-seq"):
            ours = pages.command("Makefile", line)
            assert ours is not None
            return fault(ours)
    return None


def _fault_of_pip(words: list[str]) -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = re.fullmatch(r"(?:decision-seq|\.)\[(\w+)\]", words[-1])
    known = named[1] in extras if named else (ROOT / words[-1] / "pyproject.toml").exists()
    return None if words[0] == "install" and known else f"unknown package {words[-1]}"


def _fault_of_script(words: list[str]) -> str | None:
    script, *rest = words
    if not (ROOT / script).exists():
        return f"no file {script}"
    text = (ROOT / script).read_text()
    return next((f"no {w}" for w in rest if w.startswith("--") and f'"{w}"' not in text), None)
