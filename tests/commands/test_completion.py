"""Tests of the completion scripts, the one of bash by bash itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

from decision_seq import cli
from decision_seq.commands import build_parser
from decision_seq.commands.completion import SHELLS, script

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
_shtab_decision_seq
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """The scripts by shell; a parser of its own for each, as `script` adds options to it."""
    return {shell: script(shell, build_parser()) for shell in SHELLS}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_verbs_keys_and_recipes(shell: str, scripts: dict[str, str]) -> None:
    for word in ("evaluate", "train.learning_rate", "policy.planner.beams", "dt/paper"):
        assert word in scripts[shell]
    assert "LABEL" not in scripts[shell]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell: str, scripts: dict[str, str], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(scripts[shell])
    read = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


def test_the_command_prints_a_script(
    scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", "tcsh"]) == 0
    assert capsys.readouterr().out == f"{scripts['tcsh']}\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(scripts: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(scripts["bash"])

    def completed(*words: str) -> list[str]:
        command = ["bash", "-c", COMPLETE, "bash", str(path), "decision-seq", *words]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        return run.stdout.split()

    assert completed("tr") == ["train"]
    assert completed("train", "--train.learn") == ["--train.learning_rate"]
    assert completed("train", "--seed", "1", "--policy.pl")[0] == "--policy.planner.horizon"
    assert "dt/paper" in completed("train", "--config", "dt/")
    assert completed("train", "--windows", "") == ["any", "whole", "segments"]
    assert completed("train", "--help", "policy.tt.p") == ["policy.tt.planner"]
    assert completed("config", "d") == ["diff"]
    assert completed("sweep", "gym-") == ["gym-medium"]


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["completion", "ksh"])
    assert stop.value.code == 2
    assert "'ksh'" in capsys.readouterr().err
