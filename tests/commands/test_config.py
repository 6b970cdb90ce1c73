"""Tests of `decision-seq config`: shown, compared and checked without a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from decision_seq import cli
from decision_seq.config import load, read_yaml
from decision_seq.runs.resolve import Config
from tests.test_train import TINY


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "evaluation": {"episodes": 2}}))
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["config", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["config", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_what_is_shown_is_what_train_uses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--config", "dt/paper", "--seed", 3, "--train.steps", 5)
    text = printed(capsys, "show", *options)
    shown = load(Config, yaml.safe_load(text))
    assert (shown.seed, shown.train.steps, shown.train.warmup_steps) == (3, 5, 10_000)
    assert shown.method == "dt/paper"
    assert shown.evaluation.targets is None  # known by the data only
    assert json.loads(printed(capsys, "show", *options, "--json")) == yaml.safe_load(text)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert printed(capsys, "show", "--config", path) == text
    assert [one.name for one in tmp_path.iterdir()] == ["mine.yaml"]


def test_with_the_data_the_rest_is_resolved(
    capsys: pytest.CaptureFixture[str], recipe: Path, write_d4rl: Callable[..., Path]
) -> None:
    options = ("show", "--config", recipe, "--dataset", write_d4rl())
    assert yaml.safe_load(printed(capsys, *options))["conditioning"]["scale"] is None
    tree = yaml.safe_load(printed(capsys, *options, "--data"))
    assert tree["conditioning"]["scale"] == 1000.0
    assert tree["evaluation"]["env_id"] == "Hopper-v4"
    assert tree["evaluation"]["targets"] == [3600.0, 1800.0]
    arguments = ["train", *map(str, options[1:]), "--train.steps", "5", "--train.warmup_steps", "1"]
    assert cli.main([*arguments, "--output", "run"]) == 0
    used = read_yaml(Path("run/config.yaml"))
    for key in ("every", "episodes_during"):  # the trainer decides on them
        assert tree["evaluation"].pop(key) is None
        used["evaluation"].pop(key)
    assert used == {**tree, "train": {**tree["train"], "steps": 5, "warmup_steps": 1}}


def test_differing_keys_are_printed_in_aligned_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed(capsys, "diff", "dt/gym", "dt/paper") == (
        "key                      dt/gym  dt/paper\n"
        "-----------------------  ------  --------\n"
        "method                   dt/gym  dt/paper\n"
        "policy.backbone.dropout  0.0     0.1\n"
        "policy.positions.std     0.02    1.0\n"
        "train.steps              3000    100000\n"
        "train.learning_rate      0.001   1e-4\n"
        "train.warmup_steps       200     10000\n"
        "train.schedule           cosine  constant\n"
        "train.checkpoint_every   500     10000\n"
        "evaluation.episodes      50      100\n"
    )
    found = json.loads(printed(capsys, "diff", "dt/gym", "dt/paper", "--json"))
    assert found["train.learning_rate"] == [1e-3, 1e-4]
    assert len(found) == 9


def test_keys_of_one_side_only_stand_with_their_section(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys, "diff", "dt/gym", "bc/gym").splitlines()
    keys = [line.split()[0] for line in lines[2:]]
    assert keys.index("policy.layers") < keys.index("conditioning.name")
    assert ["policy.squash", "false", "-"] in [line.split() for line in lines]
    assert ["policy.layers", "-", "3"] in [line.split() for line in lines]


def test_runs_checkpoints_and_files_are_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = make_checkpoint()
    run = tmp_path / "run"
    (run / "config.yaml").write_text((checkpoint / "config.yaml").read_text())
    assert printed(capsys, "diff", checkpoint, run) == "no differences\n"
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**read_yaml(run / "config.yaml"), "seed": 7}))
    tree = read_yaml(file)
    for section in ("spec", "data"):  # of a checkpoint, not of a configuration
        tree.pop(section)
    file.write_text(yaml.safe_dump(tree))
    found = json.loads(printed(capsys, "diff", run, file, "--json"))
    assert found == {"seed": [0, 7], "method": [None, "mine"]}
    found = json.loads(printed(capsys, "diff", run, run, "--json"))
    assert found == {}


def test_a_name_from_a_file_is_shown_harmlessly(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, text in (("a", "x\x1b[31m"), ("b", "y\nz  forged")):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"dataset": text}))
    text = printed(capsys, "diff", "a.yaml", "b.yaml")
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["diff", "dt/gym", "nowhere"], "nowhere is no run, checkpoint, recipe or YAML file"),
        (["diff", "dt/gym", "gone.yaml"], "gone.yaml does not exist"),
        (["diff", ".", "dt/gym"], ". is no run, checkpoint, recipe or YAML file"),
        (["show", "--lr", "1"], "unknown option --lr; did you mean --train.learning_rate 1e-4?"),
        (["show", "--config", "dt/gim"], "no recipe is called 'dt/gim'"),
        (["show", "--dataset", "gone.hdf5", "--data"], "gone.hdf5 does not exist"),
        (["check", "--policy.context_length", "0"], "context_length 0 must be at least 1"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str, tmp_path: Path
) -> None:
    assert named in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_check_predicts_and_begins_no_run(
    capsys: pytest.CaptureFixture[str],
    recipe: Path,
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
) -> None:
    options = ["check", "--config", recipe, "--dataset", write_d4rl(), "--output", "run"]
    text = printed(capsys, *options)
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert list(rows) == [
        *("configuration", "parameters", "window", "run", "memory", "updates", "evaluations"),
        "checkpoints",
    ]
    assert "valid: tiny on " in rows["configuration"]
    assert "6 steps, 17 tokens, " in rows["window"]
    assert "measured over 20 updates on cpu (1 process)" in rows["updates"]
    assert "if no episode ends before its time limit" in rows["evaluations"]
    tree = json.loads(printed(capsys, *options, "--json"))
    assert tree["config"]["evaluation"]["env_id"] == "Hopper-v4"
    assert tree["prediction"]["parameters"] > 1000
    assert not (tmp_path / "run").exists()
