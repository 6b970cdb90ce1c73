"""Tests of the verbs export and import, and of runs after an import."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.cli import main


def test_export_import_evaluate_resume(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, folder, mine = make_checkpoint().parent.parent, tmp_path / "hf", tmp_path / "mine"
    assert main(["export", str(run), "--to", "transformers", "--output", str(folder)]) == 0
    assert main(["import", str(folder), "--output", str(mine), "--target", "100"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(mine), "--episodes", "1"]) == 0
    assert "weights imported from hf" in capsys.readouterr().out
    assert main(["evaluate", str(mine), "--offline"]) == 2
    assert "was not trained here" in capsys.readouterr().err
    assert main(["train", "--resume", "--output", str(mine)]) == 2
    assert f"{mine} is a checkpoint, not a run" in capsys.readouterr().err
    assert main(["import", str(folder), "--output", str(mine)]) == 2
    assert "exists; name another --output" in capsys.readouterr().err
    assert main(["import", str(folder), "--output", str(mine / "x"), "--heads", "0"]) == 2
    assert "heads 0 must be at least 1" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "no"), "--to", "onnx", "--output", "x.onnx"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_configuration_that_its_tensors_contradict_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, folder = make_checkpoint().parent.parent, tmp_path / "hf"
    assert main(["export", str(run), "--to", "transformers", "--output", str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    for key, value in {"n_layer": 99, "hidden_size": "8", "action_tanh": "no"}.items():
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        assert main(["import", str(folder), "--output", str(tmp_path / "mine")]) == 2
        assert key in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
