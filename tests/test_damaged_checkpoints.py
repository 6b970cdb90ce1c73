"""Tests of checkpoints whose files are not what was written, by every verb that opens one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from decision_seq import checkpoint
from decision_seq.cli import main
from decision_seq.sharing.exporting import export
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines

VERBS = {
    "evaluate": ["evaluate", "PATH", "--episodes", "1", "--workers", "1", "--target", "1"],
    "offline": ["evaluate", "PATH", "--offline"],
    "calibrate": ["evaluate", "PATH", "--calibrate", "3", "--output", "OUT", "--episodes", "1"],
    "film": ["evaluate", "PATH", "--video", "OUT", "--episodes", "0"],
    "match": ["match", "PATH", "--output", "OUT"],
    "explain": ["explain", "PATH", "--output", "OUT", "--episodes", "2"],
    "predict": ["predict", "PATH", "--output", "OUT"],
    "export checkpoint": ["export", "PATH", "--to", "checkpoint", "--output", "OUT"],
    "export transformers": ["export", "PATH", "--to", "transformers", "--output", "OUT"],
    "export onnx": ["export", "PATH", "--to", "onnx", "--output", "OUT.onnx"],
    "push": ["push", "PATH", "me/mine", "--as", "checkpoint"],
    "bench": ["bench", "evaluate", "PATH", "--episodes", "0"],
}
# Verbs that do their work here; others open the checkpoint, and end with an error of their own.
WORK = ("evaluate", "export checkpoint")
LONG = ("calibrate", "export onnx", "export transformers")  # they open it as those in WORK do


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def arguments(verb: str, path: Path, out: Path) -> list[str]:
    known = {"PATH": str(path), "OUT": str(out), "OUT.onnx": f"{out}.onnx"}
    return [known.get(word, word) for word in VERBS[verb]]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise UserError("no data here")

    monkeypatch.setattr("decision_seq.analysis.hindsight_matching.open_data", absent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def numbered(path: Path, step: int) -> Path:
    """A sound copy of a checkpoint as the one of another update."""
    copy = path.with_name(f"step-{step:08d}")
    shutil.copytree(path, copy)
    state = json.loads((copy / checkpoint.STATE).read_text())
    (copy / checkpoint.STATE).write_text(json.dumps({**state, "step": step}))
    return copy


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.CONFIG, checkpoint.STATE])
@pytest.mark.parametrize("verb", [*VERBS, "import"])
def test_a_flipped_bit_is_refused(
    verb: str,
    name: str,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    path, out = make_checkpoint(), tmp_path / "out"
    if name == checkpoint.STATE:
        (path / name).write_text((path / name).read_text().replace('"step": 7', '"step": 6'))
    else:
        flip(path / name)
    given = ["import", str(path), "--output", str(out)]
    assert main(given if verb == "import" else arguments(verb, path, out)) == 2
    said = capsys.readouterr().err
    assert "(checksum)" in said or "is of update 6" in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in LONG])
def test_of_a_run_the_newest_sound_one_is_taken(
    verb: str, make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = make_checkpoint()
    newer = numbered(path, 9)
    flip(newer / checkpoint.WEIGHTS)
    code = main(arguments(verb, path.parent.parent, tmp_path / "out"))
    found = capsys.readouterr()
    line = f"skipped the damaged checkpoint {newer}: {checkpoint.WEIGHTS} is not what was written"
    assert line in found.err
    assert "every checkpoint" not in found.err
    if verb in WORK:
        assert code == 0
    if verb == "evaluate":
        assert path.name in found.out


def test_without_a_reporter_nothing_is_skipped(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint()
    flip(numbered(path, 9) / checkpoint.WEIGHTS)
    with pytest.raises(UserError, match=r"step-00000009: model\.safetensors .*checksum"):
        checkpoint.load(path.parent.parent)


def test_weights_of_another_update_are_refused(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint()
    other = numbered(path, 40)
    weights = checkpoint.read_weights(path)
    weights["actions.head.bias"] += 1
    tensors = checkpoint.Tensors(weights, {})
    state: dict[str, Any] = {"topology": {}, "scaler": {}}
    later = checkpoint.save(path.parent, 10, tensors, checkpoint.load(path).config, state)
    shutil.copyfile(later / checkpoint.WEIGHTS, other / checkpoint.WEIGHTS)
    with pytest.raises(UserError, match="checksum"):
        checkpoint.load(other)
    with pytest.raises(UserError, match="checksum"):
        checkpoint.read_weights(other)
    shutil.rmtree(other)
    shutil.copytree(later, other)
    with pytest.raises(UserError, match="is of update 10"):
        checkpoint.load(other)


@pytest.mark.parametrize("name", [checkpoint.TRAINED, checkpoint.CARRIED_ROWS, checkpoint.MOMENTS])
def test_files_that_only_training_reads(name: str, make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint()
    weights = checkpoint.read_weights(path)
    tensors = checkpoint.Tensors(weights, {"x/y": torch.ones(9)}, weights, {"h": torch.ones(3)})
    state: dict[str, Any] = {"topology": {}, "scaler": {}}
    newer = checkpoint.save(path.parent, 8, tensors, checkpoint.load(path).config, state)
    flip(newer / name)
    assert checkpoint.newest_sound(path.parent, Reporter()) == path
    assert checkpoint.load(newer).step == 8
    if name == checkpoint.TRAINED:
        with pytest.raises(UserError, match="checksum"):
            checkpoint.read_weights(newer, name)


def test_checkpoints_without_checksums_are_opened_and_named(
    make_checkpoint: Callable[..., Path],
) -> None:
    path, reporter = make_checkpoint(), Lines()
    state = json.loads((path / checkpoint.STATE).read_text())
    del state["sha256"]
    (path / checkpoint.STATE).write_text(json.dumps(state))
    assert checkpoint.load(path, reporter=reporter).step == 7
    assert [line for line in reporter.lines if "without checksums" in line] == reporter.lines != []
    assert "names no checksums" in str(checkpoint.fault(path))


def test_an_export_without_the_optimizer_is_sound(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    exported = export(make_checkpoint(), "checkpoint", tmp_path / "policy", Reporter())
    assert not (exported / checkpoint.MOMENTS).exists()
    assert checkpoint.load(exported).step == 7
    flip(exported / checkpoint.WEIGHTS)
    with pytest.raises(UserError, match="checksum"):
        checkpoint.load(exported)
