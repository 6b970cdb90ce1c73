"""Texts are written as UTF-8 whatever the locale, and reach an ASCII terminal as they can."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT

PACKAGE = Path(__file__).parent.parent / "decision_seq"


def unnamed(source: str) -> list[int]:
    """The lines of a module that write text without naming its encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        modes = [*node.args[1:2], words.get("mode")] if name == "open" else []
        texts = [m.value for m in modes if isinstance(m, ast.Constant)]
        writes = [m for m in texts if isinstance(m, str) and set(m) & set("wax+") and "b" not in m]
        if (name == "write_text" or writes) and "encoding" not in words:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_what_is_written_names_its_encoding(path: Path) -> None:
    assert unnamed(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("path.write_text(text)", True),
        ("open(path, 'a', buffering=1)", True),
        ("open(path, mode='w')", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path, 'wb')", False),
        ("open(path)", False),
    ],
)
def test_what_the_walk_catches(source: str, caught: bool) -> None:
    assert bool(unnamed(source)) == caught


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

WRITES = """
import locale, sys
from pathlib import Path
from decision_seq import cli
from decision_seq.config import save_text
from decision_seq.commands import data
from decision_seq.commands.console import make_reporter

assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8")

def run(options):
    save_text(Path("text"), "a ± b")
    make_reporter().say("said ±")
    print("printed ±")
    return 0

data.run_list = run
sys.exit(cli.main(["data", "list"]))
"""


def test_an_ascii_locale(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WRITES, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, **ASCII},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "said ?\n", "printed ?\n")
    assert (tmp_path / "text").read_bytes() == "a ± b".encode()
