"""Tests of runs that begin with another run's weights, and of frozen ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.cli import main
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.types import UserError
from tests.conftest import Lines
from tests.test_train import TINY, losses, tiny

QUIET: dict[str, Any] = {"trackers": [], "steps": 10}


@pytest.fixture
def source(write_d4rl: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run of 10 updates."""
    experiment.train(tiny(write_d4rl(), **QUIET), tmp_path / "source")
    return tmp_path / "source"


def begun(tmp_path: Path, source: Path, *trees: dict[str, Any], **train: Any) -> Config:
    settings = {"dataset": str(tmp_path / "hopper_medium-v2.hdf5"), "init_from": str(source)}
    return configs.load(Config, TINY, settings, {"train": {**QUIET, **train}}, *trees)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_weights(checkpoint.find(run))


def test_a_run_begins_with_the_weights_of_another(source: Path, tmp_path: Path) -> None:
    reporter = Lines()
    other = begun(tmp_path, source, steps=1, learning_rate=1e-12, warmup_steps=0)
    experiment.train(other, tmp_path / "new", reporter=reporter)
    before, after = weights(source), weights(tmp_path / "new")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9)
    (line,) = [line for line in reporter.lines if line.startswith("init_from: ")]
    assert line == f"init_from: {len(before)} tensors are those of {checkpoint.find(source)}"
    origin = json.loads((tmp_path / "new" / "provenance.json").read_text())["init_from"]
    assert origin["checkpoint"] == str(checkpoint.find(source))
    saved = json.loads((checkpoint.find(source) / "trainer" / "state.json").read_text())
    assert origin["sha256"] == saved["sha256"]["model.safetensors"]


def test_a_resumed_run_does_not_begin_again(source: Path, tmp_path: Path) -> None:
    """It equals the uninterrupted one to the bit, though the source is gone."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    experiment.train(begun(tmp_path, source, schedule="constant"), whole)
    experiment.train(begun(tmp_path, source, schedule="constant", steps=4), broken)
    source.rename(tmp_path / "gone")
    experiment.train(begun(tmp_path, source, schedule="constant"), broken, "must")
    assert losses(whole) == losses(broken)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(broken)[name], tensor)


def test_another_objective_begins_with_what_it_shares(source: Path, tmp_path: Path) -> None:
    reporter = Lines()
    stochastic = {"policy": {"head": "stochastic"}}
    experiment.train(begun(tmp_path, source, stochastic), tmp_path / "new", reporter=reporter)
    (line,) = [line for line in reporter.lines if line.startswith("init_from: ")]
    assert "are new" in line
    assert "log_temperature" in line


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"policy": {"backbone": {"width": 24}}},
            "actions.embed.bias has shape [16] there and [24] here",
        ),
        ({"dataset": "walker.hdf5"}, "observation_shape (11,), and these data have (17,)"),
        ({"init_from": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_d4rl: Callable[..., Path],
    tree: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_d4rl(name="walker.hdf5", sizes=(17, 6))
    with pytest.raises(UserError) as failed:
        experiment.train(begun(tmp_path, source, tree), tmp_path / "new")
    assert message in str(failed.value)
    assert not (tmp_path / "new").exists()


def test_frozen_weights_stay(source: Path, tmp_path: Path) -> None:
    frozen = begun(tmp_path, source, freeze=["backbone.*", "embed_*"], weight_decay=0.1)
    experiment.train(frozen, tmp_path / "new")
    before, after = weights(source), weights(tmp_path / "new")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("backbone.", "embed_"))]
    # It resumes as it was, with no moments for what is frozen.
    tree = configs.read_yaml(tmp_path / "new" / "config.yaml")
    again = configs.load(Config, tree, {"train": {"trackers": []}})
    experiment.train(again, tmp_path / "new", "must")
    for patterns, message in ((["backbon.*"], "fits no weight; they begin"), (["*"], "no weight")):
        with pytest.raises(UserError, match=message):
            experiment.train(begun(tmp_path, source, freeze=patterns), tmp_path / "other")


def test_a_finished_run_goes_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A constant schedule goes on to the bit; another names the way out, which works."""
    longer = ["--train.steps", "14", "--train.trackers", "[]"]
    whole, short = tmp_path / "whole", tmp_path / "short"
    data = str(tmp_path / "hopper_medium-v2.hdf5")
    for output, steps in ((whole, 14), (short, 10)):
        constant = tiny(Path(data), **{**QUIET, "steps": steps, "schedule": "constant"})
        experiment.train(constant, output)
    assert main(["train", "--output", str(short), "--resume", *longer]) == 0
    assert losses(whole) == losses(short)

    cosine = tmp_path / "cosine"
    experiment.train(tiny(Path(data), **QUIET, schedule="cosine"), cosine)
    capsys.readouterr()
    assert main(["train", "--output", str(cosine), "--resume", *longer]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        f"cannot resume {cosine} with another train.steps (10 -> 14); under train.schedule" in line
    )
    assert line.endswith(f"go on from its weights by another run with --init-from {cosine}")
    few = ["--policy.context_length", "6", "--policy.backbone.width", "16"]
    few += ["--policy.backbone.layers", "2", "--evaluation.episodes", "0", *longer]
    new = [
        "--init-from",
        str(cosine),
        "--output",
        str(tmp_path / "new"),
        "--train.warmup_steps",
        "1",
    ]
    assert main(["train", "--dataset", data, *new, *few]) == 0
