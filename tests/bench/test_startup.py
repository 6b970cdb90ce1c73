"""Tests of the start-up benchmark with real commands."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from decision_seq.bench import startup
from decision_seq.bench.first_step import noting
from decision_seq.cli import main
from decision_seq.types import UserError


def test_the_first_step_is_noted_and_ends_the_episode(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    note, path = tmp_path / "note", str(make_checkpoint())
    started = time.time()
    arguments = ["--env", noting("Hopper-v4", note), "--episodes", "3", "--target", "3600"]
    assert main(["evaluate", path, *arguments, "--json"]) == 0
    assert started < float(note.read_text()) < time.time()
    assert '"lengths": [\n    1,\n    1,\n    1\n' in capsys.readouterr().out


def test_every_command_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in this process; every command starts at the same time of a clock that stands still."""
    began = time.time()
    monkeypatch.setattr(startup, "time", SimpleNamespace(time=lambda: began))
    monkeypatch.setattr(startup, "EPISODES", 2)
    commands = []

    def run(*arguments: str) -> None:
        commands.append(arguments[0])
        if arguments[0] != "--help":
            assert main(list(arguments)) == 0

    monkeypatch.setattr(startup, "_run", run)
    result = startup.bench_startup(1)
    assert commands == ["train", *["--help", "train", "evaluate"] * 2]
    helped, trained, evaluated = (row["median_s"] for row in result["rows"])
    assert 0 == helped < trained < evaluated < time.time() - began
    assert "to its first update" in startup.startup_text(result)


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(UserError, match=r"`decision-seq evaluate nowhere` failed: .*not exist"):
        startup._run("evaluate", "nowhere")
