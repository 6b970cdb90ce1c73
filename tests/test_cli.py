"""Tests of the command line: its output, and one-line errors for bad input."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from decision_seq import cli
from decision_seq.commands import build_parser
from decision_seq.commands.configuration import configure
from decision_seq.config import dump
from decision_seq.console import Console
from decision_seq.types import UserError
from tests.test_train import TINY
from tests.waiting import LIMIT, until

NEWS = ("1 process trains", "data: ", "hopper_medium-v2.hdf5: taken for", "skipped the damaged")
Run = Callable[..., subprocess.CompletedProcess]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "decision_seq", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The single line on standard error of a command that ends with exit code 2."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith(NEWS)]
    assert len(lines) == 1, printed.err
    return lines[0]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    tree = {**TINY, "evaluation": {"episodes": 3}}
    path.write_text(yaml.safe_dump(tree))
    return path


def test_train_evaluate_and_what_they_write(
    write_d4rl: Callable[..., Path], tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    made = run("train", "--config", recipe, "--dataset", write_d4rl(), "--output", output)
    assert made.returncode == 0, made.stderr
    table = made.stdout.splitlines()
    assert table[-4].split()[0] == "target"
    assert [line.split()[0] for line in table[-2:]] == ["3,600", "1,800"]
    assert any(
        line.startswith("source       D4RL-layout file hopper_medium-v2.hdf5, sha")
        for line in table
    )
    assert "environment  Hopper-v4" in table
    scores = json.loads((output / "scores.json").read_text())
    assert scores["env_id"] == "Hopper-v4"
    assert [len(target["returns"]) for target in scores["targets"]] == [3, 3]
    for target in scores["targets"]:
        mean = sum(target["returns"]) / 3
        assert target["return_mean"] == pytest.approx(mean)
        expected = 100 * (mean + 20.272305) / (3234.3 + 20.272305)
        assert target["normalized_score"] == pytest.approx(expected)
    provenance = json.loads((output / "provenance.json").read_text())
    assert provenance["data"]["source"]["sha256"]
    assert provenance["packages"]["torch"]
    assert cli.main(["evaluate", str(output), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == scores["targets"]
    arguments = ["evaluate", str(output), "--episodes", "1", "--target", "100", "200", "300"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in shown] == ["100", "200", "300"]


def test_evaluation_needs_no_data(
    make_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    """Targets given as words do not need the data either: the checkpoint holds their returns."""
    path = make_checkpoint()
    arguments = ["evaluate", str(path), "--episodes", "1", "--target", "max", "q10"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[-2:]] == ["1,000", "100"]
    assert re.search(r"environment steps, [\d,]+ a second \(fp32, 1 process", printed.err)


def test_calibration_is_printed_written_and_drawn(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, folder = make_checkpoint(), tmp_path / "figures"
    arguments = ["evaluate", str(path), "--calibrate", "4", "--episodes", "2"]
    assert "is no run's folder" in refused(capsys, *arguments)
    assert cli.main([*arguments, "--output", str(folder)]) == 0
    found = json.loads((folder / "calibration.json").read_text())
    # From the data's worst return, 0, to a fifth of the range above the best, 1000.
    assert [point["target"] for point in found["points"]] == [0.0, 400.0, 800.0, 1200.0]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-4:]] == [
        *("0", "400", "800", "1,200")
    ]
    same = _returns(path, ["--target", "400", "--episodes", "2"], capsys)
    assert found["points"][1]["returns"] == pytest.approx(same, rel=1e-3)  # another slot
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")


def _returns(path: Path, more: list[str], capsys: pytest.CaptureFixture) -> list[float]:
    assert cli.main(["evaluate", str(path), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)["targets"][0]["returns"]


def test_inspect_prints_what_came_in_and_went_out(
    write_d4rl: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    path = write_d4rl((40, 25, 60), tail=13)
    assert cli.main(["data", "inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"transitions +138 in, 138 out", text)
    assert re.search(r"episodes +4: 2 terminated, 1 truncated, 1 without an end", text)
    assert cli.main(["data", "inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["transitions_in"] == facts["transitions_out"] == 138


def test_list_names_the_bundled_data(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["data", "list"]) == 0
    assert re.search(
        r"^bundled/hopper-medium +collected here.* made on first use$",
        capsys.readouterr().out,
        re.M,
    )


def test_a_bundled_collection_needs_no_output(capsys: pytest.CaptureFixture) -> None:
    command = ["data", "collect", "hopper-random", "--episodes", "3", "--workers", "1"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert "3 episodes" in first
    assert cli.main(command) == 0  # already collected
    assert capsys.readouterr().out == first
    assert cli.main(["data", "collect", "--policy", "uniform", "--env", "Hopper-v4"]) == 2
    assert "--policy needs --output" in capsys.readouterr().err


def test_collect_writes_a_store(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["data", "collect", "--policy", "uniform", "--env", "Hopper-v4", "--steps", "300"]
    output = tmp_path / "random"
    assert cli.main([*arguments, "--workers", "1", "--output", str(output)]) == 0
    assert "transitions" in capsys.readouterr().out
    assert cli.main(["data", "inspect", str(output)]) == 0
    assert "uniformly random actions" in capsys.readouterr().out
    assert "exists" in refused(capsys, *arguments, "--output", output)


def test_a_terminated_collection_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM, as sent by a scheduler, leaves no partial store and no worker process."""
    arguments = ["data", "collect", "--policy", "uniform", "--env", "Hopper-v4"]
    arguments += ["--steps", "10000000", "--workers", "2", "--output", str(tmp_path / "x")]
    process = subprocess.Popen(
        [sys.executable, "-m", "decision_seq", *arguments], stderr=subprocess.DEVNULL
    )
    until(lambda: bool(list(tmp_path.glob(".partial-*/rewards.npy"))), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.terminate()
    assert process.wait(LIMIT) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=LIMIT)
    assert alive == []
    assert list(tmp_path.iterdir()) == []


def _text(path: Path) -> None:
    path.write_text("no HDF5")


BAD: dict[str, tuple[list[object], str]] = {
    "unknown dataset": (["--dataset", "hoper-medium"], "nearest known: hopper-medium"),
    "missing file": (["--dataset", "missing.hdf5"], "missing.hdf5 does not exist"),
    "unknown key": (["--train.stepz", "3"], "did you mean --train.steps 100000?"),
    "context 0": (["--policy.context_length", "0"], "context_length 0 must be at least 1"),
    "no value": (["--train.steps"], "--train.steps needs a value"),
    "stray word": (["steps"], "unexpected argument 'steps'"),
    "unknown recipe": (["--config", "dt/gim"], "no recipe is called 'dt/gim'; there are atari/bc"),
    "missing recipe": (["--config", "gone.yaml"], "config gone.yaml does not exist"),
    "resume nowhere": (["--resume"], "nothing to resume: runs/hopper-medium-dt-seed0 does not"),
    "resume a typo": (["--resume", "--output", "typo"], "typo does not exist"),
    "empty name": (["--dataset", ""], "'' is no dataset's name"),
    "a name too long": (["--dataset", "x" * 5000], "File name too long"),
    "bad number": (["--seed", "one"], "invalid int value"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD.values(), ids=BAD.keys())
def test_bad_training_input(
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, "train", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_bad_files_in_training(
    capsys: pytest.CaptureFixture, tmp_path: Path, write_d4rl: Callable[..., Path]
) -> None:
    good = write_d4rl()
    empty, text, cut = (tmp_path / f"{name}.hdf5" for name in ("empty", "text", "cut"))
    empty.write_bytes(b"")
    text.write_text("observations")
    cut.write_bytes(good.read_bytes()[:3000])
    output = tmp_path / "run"
    for path, named in ((empty, "is empty"), (text, "no HDF5 file"), (cut, "cut short")):
        line = refused(capsys, "train", "--dataset", path, "--output", output)
        assert named in line
        assert path.name in line
        assert not output.exists()
    for folder, named in ((text / "run", "Not a directory"), (text, "File exists")):
        line = refused(capsys, "train", "--dataset", good, "--output", folder)
        assert named in line
        assert str(folder) in line
    for env, named in (("HalfCheetah-v4", "name another environment"), ("Hoper-v4", "Hoper-v4")):
        arguments = ["--dataset", good, "--output", output, "--evaluation.env_id", env]
        assert named in refused(capsys, "train", *arguments)
        assert not output.exists()
    assert text.read_text() == "observations"


def test_bad_evaluation_input(
    capsys: pytest.CaptureFixture, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    assert "does not exist" in refused(capsys, "evaluate", tmp_path / "none")
    assert "holds no checkpoint" in refused(capsys, "evaluate", tmp_path)
    path = make_checkpoint()
    run_folder = path.parent.parent
    table: list[tuple[list[object], str]] = [
        (["--env", "Hoper-v4"], "Hoper-v4"),
        (["--env", "HalfCheetah-v4"], "name another"),
        (["--episodes", 0], "0 episodes"),
        (["--device", "foo"], "cannot be used here"),
        (["--episodes", 10**15], "episodes 1000000000000000 is above 1,000,000"),
        (["--calibrate", 10**9], "a calibration has 2 to 1,000"),
        (["--calibrate", "--output", path / "config.yaml"], "config.yaml is no folder"),
        (["--calibrate", "--target", 5], "--target means nothing with --calibrate"),
        (["--calibrate", "--video", "films"], "--video means nothing with --calibrate"),
        (["--offline", "--video", "films"], "--video means nothing with --offline"),
        (["--offline", "--calibrate"], "--calibrate means nothing with --offline"),
        (["--output", "figures"], "--output is for --calibrate"),
        (["--dataset", "x"], "--dataset is for --offline"),
        (["--target", 1e300], "is no return"),
        (["--target", "best"], "is no return"),
    ]
    for options, named in table:
        assert named in refused(capsys, "evaluate", run_folder, *options)
    (path / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(capsys, "evaluate", path)
    arguments = ["train", "--config", "dt/gym", "--dataset", "x", "--output", run_folder]
    assert "is not empty; add --resume" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "collect", "--output", "x"],
        ["data", "collect", "--policy", "uniform", "--output", "x"],
        ["data", "collect", "hopper-large", "--output", "x"],
        ["data", "collect", "--policy", "gone.hdf5", "--env", "Hopper-v4", "--output", "x"],
        ["data", "inspect", "nothing"],
        [
            *[
                "data",
                "collect",
                "--policy",
                "uniform",
                "--env",
                "Hopper-v4",
                "--output",
                "x",
                "--seed",
                "-1",
            ]
        ],
        ["data", "collect", "--policy", "uniform", "--env", "atari/Pong-v0", "--output", "x"],
        ["bench"],
        ["bench", "fly"],
        ["bench", "train", "--rounds", "0"],
        ["bench", "train", "--threads", "-1"],
        ["bench", "train", "--frames"],
        ["bench", "steps", "--frames", "--rounds", "0"],
        ["bench", "sample", "--transitions", "3"],
        ["bench", "sample", "--frames", "--transitions", "3"],
        ["bench", "sample", "--store", "atari/Breakout"],
        ["bench", "evaluate"],
        ["bench", "evaluate", "nowhere"],
        ["bench", "plan", "--rounds", "0"],
        ["bench", "startup", "--rounds", "0"],
        ["bench", "startup", "nowhere"],
        ["bench", "growth", "--contexts", "1"],
        ["bench", "growth", "--contexts", "5000"],
        ["bench", "growth", "--widths", "0"],
        ["bench", "time-to-score"],
        ["bench", "time-to-score", "nowhere"],
        ["bench", "time-to-score", "nowhere", "--score", "nan"],
        ["bench", "intervals", "--draws", "5"],
        ["fly"],
        [],
    ],
)
def test_other_bad_input(
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_log_has_no_line_for_what_only_a_person_would_watch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console().bar("wait", "step", 2) as bar:
        for second in range(50):
            bar.set_postfix_str(f"{second} seconds")
        bar.update()
    told = capsys.readouterr().err
    assert told.count("\r") <= 3
    assert "49 seconds" in told


def configured(*arguments: str) -> tuple[Any, Path]:
    options, rest = build_parser().parse_known_args(["train", *arguments])
    options.overrides = rest
    return configure(options)


def test_resume_finds_the_default_folder_of_the_same_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("--config", "dt/paper", "--seed", "3", "--train.steps", "7")
    config, made = configured(*asked)
    assert made == Path("runs/hopper-medium-dt-seed3")
    for mode in ("must", "auto"):  # nothing is there yet: `must` refuses it later
        assert configured(*asked, "--resume", mode) == (config, made)
    made.mkdir(parents=True)
    saved = dataclasses.replace(config, train=dataclasses.replace(config.train, clip=0.125))
    (made / "config.yaml").write_text(dump(saved))
    assert configured("--seed", "3", "--resume") == (saved, made)
    assert configured("--seed", "3")[1] == Path("runs/hopper-medium-dt-seed3-2")
    Path("runs/hopper-medium-dt-seed3-2").mkdir()
    with pytest.raises(UserError, match=r"seed3, .*seed3-2; name one of these runs with --output"):
        configured("--seed", "3", "--resume")


@pytest.mark.parametrize(
    ("recipe", "named", "method"),
    [
        *[("bc/transformer", "bc-transformer", "bc/transformer"), ("bc/gym", "bc", "bc/gym")],
        *[("dt/paper", "dt", "dt/paper"), ("atari/small", "dt", "atari/small")],
        ("mine/own.yaml", "dt", "own"),
    ],
)
def test_a_recipes_name_is_recorded_and_in_the_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, named: str, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/own.yaml").write_text("seed: 0")
    config, output = configured("--config", recipe, "--dataset", "hopper-medium")
    assert (config.method, output) == (method, Path(f"runs/hopper-medium-{named}-seed0"))


def test_a_given_name_is_recorded_and_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, output = configured("--name", "wide", "--config", "bc/transformer")
    assert (config.method, output) == ("wide", Path("runs/hopper-medium-wide-seed0"))
    output.mkdir(parents=True)
    (output / "config.yaml").write_text(dump(config))
    assert configured("--resume", "--name", "wide") == (config, output)
    # A run that is resumed keeps its name, unless it is given another.
    resumed = ("--resume", "--output", str(output))
    assert configured(*resumed)[0].method == "wide"
    assert configured(*resumed, "--name", "broad")[0].method == "broad"
    with pytest.raises(UserError, match=r"--name '\.\./x' names a folder; use letters"):
        configured("--name", "../x")
