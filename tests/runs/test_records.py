"""Tests of what `evaluate` keeps: complete records, under names that never collide."""

import errno
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from decision_seq import cli
from decision_seq.machine import files
from decision_seq.runs.provenance import Launched
from decision_seq.runs.records import Found, folder_of, keep
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines

EPISODES = ["--episodes", "2", "--target", "100", "--workers", "1", "--max-episode-steps", "9"]


def evaluate(*arguments: object) -> int:
    return cli.main(["evaluate", *map(str, arguments), *EPISODES])


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


def test_a_result_is_kept_in_the_run(
    make_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    path = make_checkpoint()
    run = path.parent.parent
    assert evaluate(path, "--no-record") == 0
    assert not (run / "evaluations").exists()
    assert evaluate(path, "--seed", 5, "--json") == 0
    printed = capsys.readouterr()
    (file,) = (run / "evaluations").iterdir()
    assert f"kept: {file}" in printed.err
    (record,) = records(file.parent)
    assert record["kind"] == "rollout"
    assert record["result"] == json.loads(printed.out[printed.out.index("{") :])
    assert len(record["result"]["targets"][0]["returns"]) == 2
    assert (record["checkpoint"], record["step"]) == (str(path), 7)
    assert record["protocol"] == {
        **{"env_id": "Hopper-v4", "targets": [100.0], "episodes": 2, "seed": 5},
        **{"precision": "fp32", "temperature": 0.0, "max_episode_steps": 9},
    }
    assert record["command"][:4] == ["decision-seq", "evaluate", str(path), "--seed"]
    assert record["packages"]["mujoco"]
    assert record["time"].endswith("+00:00")
    # The next one does not replace it.
    before = file.read_bytes()
    assert evaluate(path, "--seed", 5) == 0
    assert len(records(file.parent)) == 2
    assert file.read_bytes() == before


def test_beside_a_policy_outside_of_a_run(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_checkpoint().rename(tmp_path / "policy")
    monkeypatch.chdir(policy)
    assert evaluate(".") == 0
    assert len(records(tmp_path / "policy-evaluations")) == 1
    assert sorted(os.listdir(policy)) == ["config.yaml", "model.safetensors", "trainer"]
    assert folder_of(tmp_path / "checkpoints" / "mine") == (
        tmp_path / "checkpoints" / "mine-evaluations"
    )


FOUND = Found("rollout", Path("run/checkpoints/step-00000007"), 7, {"seed": 1}, {"returns": [1.0]})


@pytest.fixture
def launched() -> Launched:
    return Launched.now(["evaluate"], 1, torch.device("cpu"))


def test_evaluations_at_once_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: Launched
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: keep(FOUND, launched, Reporter()), range(40)))
    assert len(set(kept)) == 40
    assert len(records(tmp_path / "run" / "evaluations")) == 40  # and no temporary file


@pytest.mark.parametrize(("number", "raised"), [(errno.EROFS, False), (errno.ENOSPC, True)])
def test_where_nothing_can_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launched: Launched,
    number: int,
    raised: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    reporter = Lines()

    def full(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "flush", full)
    said = f"the result is not kept: cannot write in .*evaluations: {os.strerror(number)}"
    if raised:
        with pytest.raises(UserError, match=f"{said}; leave the record out by --no-record"):
            keep(FOUND, launched, reporter)
    else:
        assert keep(FOUND, launched, reporter) is None
        (line,) = reporter.lines
        assert line.startswith("the result is not kept: cannot write in ")
    assert not list(tmp_path.rglob("evaluations/*"))
    assert not (tmp_path / "run" / "evaluations").exists()
