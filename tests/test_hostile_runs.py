"""Tests of hostile or clumsy input and edits: one-line errors, and never a different run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.cli import main
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.training import best
from decision_seq.training.metrics import trim
from decision_seq.types import UserError
from tests.test_train import tiny


@pytest.fixture
def run(write_d4rl: Callable[..., Path], tmp_path: Path) -> Path:
    experiment.train(tiny(write_d4rl(), steps=6, checkpoint_every=2, trackers=[]), tmp_path / "run")
    return tmp_path / "run"


def resume(run: Path, **train: object) -> None:
    saved = configs.read_yaml(run / "config.yaml")
    experiment.train(configs.load(Config, saved, {"train": train}), run, "must")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", "2020-01-01", "no whole number"),
        ("steps", "1e3", "no whole number"),
        ("clip", "2020-01-01", "no number"),
        ("peak_tflops", "true", "no number"),
        ("peak_tflops", "abc", "no number"),
        ("trackers", "5", r"no list of names; write \[NAME\]"),
        ("trackers", "''", "no list of names"),
        ("trackers", "{}", "no list of names"),
        ("trackers", "null", "no list of names"),
        ("trackers", "[1]", "no list of names"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key: str, value: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"^config: train\.{key} .* is {said}"):
        configs.load(Config, configs.override(f"train.{key}", value))


@pytest.mark.parametrize(
    "value", ["1" + "0" * 400, "9" * 5000, "1" + ":59" * 50_000, "0x" + "f" * 500]
)
def test_a_number_without_end_is_refused(value: str) -> None:
    with pytest.raises(
        UserError, match=r"^--train\.clip: .* \(a number of [\d,]+ characters\)"
    ) as caught:
        configs.override("train.clip", value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("former", "edited", "said"),
    [
        ("seed: 0\n", "seed: 5\n", r"another seed \(0 -> 5\)"),
        ("  learning_rate: 0.001\n", "", r"train\.learning_rate \(0\.001 -> 0\.0001\)"),
    ],
)
def test_an_edited_config_does_not_make_another_run_of_it(
    run: Path, former: str, edited: str, said: str
) -> None:
    path = run / "config.yaml"
    text = path.read_text().replace(former, edited, 1)
    path.write_text(text)
    with pytest.raises(UserError, match=f"cannot resume .*{said}"):
        resume(run)
    assert path.read_text() == text


def test_updates_that_are_done_cannot_be_taken_back(run: Path) -> None:
    with pytest.raises(UserError, match=r"train\.steps 4: 6 are done"):
        resume(run, steps=4)
    assert configs.read_yaml(run / "config.yaml")["train"]["steps"] == 6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"step": -3}, "is of update -3"),
        ({"step": 10**12}, "is of update 1000000000000"),
        ({"topology": None}, "names no topology"),
        ({"scaler": [1]}, "names no scaler"),
    ],
)
def test_a_state_that_is_not_what_was_written_is_skipped(
    run: Path, values: dict[str, object], said: str
) -> None:
    newest = checkpoint.find(run)
    path = newest / checkpoint.STATE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    assert said in str(checkpoint.fault(newest))
    resume(run)  # from the previous checkpoint
    assert checkpoint.fault(newest) is None


@pytest.mark.parametrize("step", ["Infinity", "[" * 50_000])
def test_a_line_that_is_no_record_is_cut_off(tmp_path: Path, step: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{{"step": {step}}}\n')
    trim(path, 4)
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("text", ['{"step": 1e400, "return_mean": 1}', "[" * 50_000])
def test_a_damaged_best_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / best.BEST).write_text(text)
    with pytest.raises(UserError, match="is damaged; remove it"):
        best.read(tmp_path)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but not RANK and MASTER_ADDR"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE 'abc' is no number"),
        ({"TORCHELASTIC_MAX_RESTARTS": "abc"}, "TORCHELASTIC_MAX_RESTARTS 'abc' is no number"),
        ({"ACCELERATE_DYNAMO_BACKEND": "nope"}, "variables do not fit together ('NOPE' is not"),
        ({"RANK": "1"}, "no recipe is called 'x'"),  # reported although this is not the main rank
    ],
)
def test_what_is_left_in_the_environment_is_named(
    environment: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    recipe = ["--config", "x"] if "RANK" in environment else []
    assert main(["train", "--output", str(tmp_path / "run"), *recipe]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_processes_cannot_train(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["train", "--output", str(tmp_path / "run"), "--processes", "0"]) == 2
    assert "--processes 0 must be at least 1" in capsys.readouterr().err


def test_what_could_not_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        configs.save_text(tmp_path / "there", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
