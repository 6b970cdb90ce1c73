import dataclasses
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from decision_seq import config as configs
from decision_seq.checkpoint import checkpoints
from decision_seq.cli import main
from decision_seq.datasets import open_dataset
from decision_seq.envs import FACTS
from decision_seq.evaluation import evaluate_checkpoint
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config, make_sampler, prepare
from decision_seq.sequences.windows import Pool, RandomWindows
from decision_seq.training import TrainConfig, masked_mean
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines
from tests.ranks import Started
from tests.waiting import LIMIT, held, logged, until

TINY = {
    "policy": {"context_length": 6, "backbone": {"layers": 2, "width": 16, "dropout": 0.1}},
    "train": {
        "steps": 40,
        "batch_size": 8,
        "warmup_steps": 5,
        "learning_rate": 1e-3,
        "log_every": 1,
        "checkpoint_every": 10,
    },
    "evaluation": {"episodes": 0},
}


def tiny(dataset: Path, **train: object) -> Config:
    return configs.load(Config, TINY, {"dataset": str(dataset), "train": train})


def losses(run: Path) -> dict[int, float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    return {record["step"]: record["loss"] for record in records}


def test_the_masked_mean_is_the_mean_over_what_is_real() -> None:
    values = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask).item() == 2.0
    assert masked_mean(values, torch.tensor([[1.0, 0, 0], [3.0, 0, 0]])).item() == 2.5


def test_the_learning_rate_follows_its_schedule() -> None:
    warm = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0)
    assert [warm.rate(step) for step in (0, 4, 9, 10, 99)] == [0.2, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainConfig(steps=110, warmup_steps=10, learning_rate=2.0, schedule="cosine")
    assert cosine.rate(10) == 2.0
    assert cosine.rate(60) == pytest.approx(1.0)
    assert cosine.rate(109) == pytest.approx(0.0, abs=1e-3)
    linear = TrainConfig(steps=110, warmup_steps=10, learning_rate=2.0, schedule="linear")
    assert linear.rate(60) == pytest.approx(1.0)


def test_training_lowers_the_loss_and_writes_a_run(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    finished = experiment.train(tiny(write_d4rl(), steps=120), output)
    assert finished is not None
    path = finished.checkpoint
    trace = losses(output)
    assert list(trace) == list(range(1, 121))
    assert sum(trace[s] for s in range(111, 121)) < 0.8 * sum(trace[s] for s in range(1, 11))
    assert path == checkpoints(output / "checkpoints")[-1]
    assert path.name == "step-00000120"
    assert len(checkpoints(output / "checkpoints")) == 2
    saved = configs.load(Config, configs.read_yaml(output / "config.yaml"))
    assert saved.conditioning.scale == 1000.0
    assert saved.evaluation.env_id == "Hopper-v4"
    assert saved.evaluation.targets == (3600.0, 1800.0)
    assert list((output / "tensorboard").iterdir())
    assert finished.scores is None
    assert json.loads((output / "provenance.json").read_text())["data"]["transitions"] == 125


def without_robotics(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if "robotics" in name else find(name, *a)
    )


@pytest.mark.parametrize(
    ("dataset", "sizes", "reason"),
    [
        ("kitchen-partial-v0.hdf5", (60, 9), "no environment is available for kitchen today"),
        ("pen-human-v1.hdf5", (45, 24), "d4rl/pen-v0 needs gymnasium-robotics"),
    ],
)
def test_a_known_task_without_an_environment_is_trained_and_not_rolled_out(
    dataset: str,
    sizes: tuple[int, int],
    reason: str,
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_robotics(monkeypatch)
    asked = {"evaluation": {"episodes": 2}}
    made = configs.load(
        Config, configs.to_tree(tiny(write_d4rl(name=dataset, sizes=sizes), steps=2)), asked
    )
    reporter, output = Lines(), tmp_path / "run"
    finished = experiment.train(made, output, reporter=reporter)
    assert [line for line in reporter.lines if reason in line and "not rolled out" in line]
    assert finished is not None
    assert finished.scores is None
    assert not (output / "scores.json").exists()
    with pytest.raises(UserError, match=reason) as caught:
        evaluate_checkpoint(finished.checkpoint)
    assert "\n" not in str(caught.value)
    reporter.lines.clear()
    experiment.train(made, output, "must", reporter=reporter)
    assert [line for line in reporter.lines if reason in line]


def test_an_environment_asked_for_by_name_must_exist(
    write_d4rl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the task's own environment may be missing; an unknown task still needs a choice."""
    without_robotics(monkeypatch)
    kitchen = tiny(write_d4rl(name="kitchen-partial-v0.hdf5"), steps=2)
    for env_id in ("NoSuch-v0", "AdroitHandPen-v1"):
        asked = {"evaluation": {"episodes": 2, "env_id": env_id}}
        with pytest.raises(UserError, match=env_id):
            experiment.train(configs.load(Config, configs.to_tree(kitchen), asked), tmp_path / "r")
    widened = {
        key: lambda column: np.tile(column, (1, 2)) for key in ("observations", "next_observations")
    }
    unknown = tiny(write_d4rl(name="mine.hdf5", change=widened), steps=2)
    asked = {"evaluation": {"episodes": 2}}
    with pytest.raises(UserError, match="no environment is known for"):
        experiment.train(configs.load(Config, configs.to_tree(unknown), asked), tmp_path / "run")


def test_a_resumed_run_imports_no_module_that_its_data_named(
    write_d4rl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolved configuration holds the data's environment apart from the user's."""
    (tmp_path / "evilmod.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    folder = open_dataset(str(write_d4rl((40, 25)))).path
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, "env_id": "evilmod:Foo-v0"}))
    train = ["train", "--dataset", str(folder), "--output", str(tmp_path / "run")]
    small = ["--train.steps", "2", "--policy.backbone.width", "8", "--policy.backbone.layers", "1"]
    assert main([*train, *small]) == 0
    assert main([*train, "--resume"]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "evilmod" not in sys.modules
    assert main(["evaluate", str(tmp_path / "run"), "--env", "evilmod:Foo-v0"]) == 2
    assert "evilmod" in sys.modules


def test_data_read_before_their_environment_was_known_find_it(
    write_d4rl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = configs.load(
        Config, {"dataset": str(write_d4rl(name="pen-human-v1.hdf5", sizes=(45, 24)))}
    )
    with monkeypatch.context() as before:
        before.setitem(FACTS, "pen", dataclasses.replace(FACTS["pen"], env_id=None))
        assert prepare(asked, Reporter()).facts.env_id is None
    assert prepare(asked, Reporter()).facts.env_id == "d4rl/pen-v0"


def test_unfinished_episodes_are_left_out_on_demand(write_d4rl: Callable[..., Path]) -> None:
    said: list[str] = []
    reporter = Reporter()
    reporter.say = said.append  # type: ignore[method-assign]
    path = str(write_d4rl((40, 25), tail=13))
    found = {}
    for choice in ("keep", "exclude"):
        config = configs.load(Config, {"dataset": path, "unfinished": choice})
        problem = prepare(config, reporter)
        sampler = make_sampler(problem.config, problem.store)
        found[choice] = {row for step in range(60) for row in sampler.ids(step)}
    assert found["keep"] == set(range(78))
    assert found["exclude"] == set(range(65))
    assert any("1 episodes stop without an end" in line for line in said)
    endless = str(write_d4rl((), "hopper_x-v2.hdf5", tail=13))
    config = configs.load(Config, {"dataset": endless, "unfinished": "exclude"})
    with pytest.raises(UserError, match="no episode has an end"):
        prepare(config, Reporter())
    with pytest.raises(UserError, match="unfinished"):
        configs.load(Config, {"unfinished": "perhaps"})


def test_the_same_seed_is_the_same_run(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    made = tiny(write_d4rl(), steps=12)
    for name in ("a", "b"):
        experiment.train(made, tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    other = configs.load(Config, configs.to_tree(made), {"seed": 1})
    experiment.train(other, tmp_path / "c")
    assert losses(tmp_path / "c")[1] != losses(tmp_path / "a")[1]


def command(output: Path, dataset: Path, config: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        *("-m", "decision_seq", "train", "--config", str(config)),
        *("--dataset", str(dataset), "--output", str(output), *more),
    ]


def run_here(arguments: list[str]) -> None:
    """Run a command of `command` in this process, which has all loaded, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(arguments[3:]) == 0
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    train = {**TINY["train"], "steps": 60, "trackers": []}
    path.write_text(yaml.safe_dump({**TINY, "train": train}))
    return path


def killed_after(arguments: list[str], folder: Path, lines: int) -> int:
    """Start training and kill it with `lines` updates logged -> its exit code."""
    never = folder / "never"
    process = held(arguments, folder / "held.log", lines, never, OMP_NUM_THREADS="1")
    process.kill()
    return process.wait(LIMIT)


def test_a_killed_run_resumes_to_the_bit(
    write_d4rl: Callable[..., Path],
    tmp_path: Path,
    tiny_config: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """Invariant 6: SIGKILL, before the first checkpoint and after; dropout is on."""
    dataset = write_d4rl()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here(command(whole, dataset, tiny_config))
    arguments = command(killed, dataset, tiny_config)
    assert killed_after(arguments, tmp_path, 4) == -signal.SIGKILL
    arguments.append("--resume")
    assert killed_after(arguments, tmp_path, 33) == -signal.SIGKILL
    run_here(arguments)
    assert "resumed from" in capsys.readouterr().err
    assert losses(killed) == losses(whole)
    assert list(losses(killed)) == list(range(1, 61))
    weights = [
        (run / "checkpoints" / "step-00000060" / "model.safetensors").read_bytes()
        for run in (whole, killed)
    ]
    assert weights[0] == weights[1]


def test_a_signal_saves_and_says_how_to_go_on(
    write_d4rl: Callable[..., Path], tmp_path: Path, tiny_config: Path
) -> None:
    dataset, run = write_d4rl(), tmp_path / "run"
    arguments = command(run, dataset, tiny_config, "--train.steps", "100000")
    process = Started(arguments[3:], tmp_path / "said")
    until(lambda: logged(run) >= 25, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 128 + signal.SIGINT
    saved = checkpoints(run / "checkpoints")[-1]
    assert int(saved.name.removeprefix("step-")) == max(losses(run))


def test_a_resumed_run_must_be_the_same_run(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    dataset, output = write_d4rl(), tmp_path / "run"
    experiment.train(tiny(dataset, steps=10), output)
    with pytest.raises(UserError, match=r"is not empty; add --resume"):
        experiment.train(tiny(dataset, steps=10), output)
    with pytest.raises(UserError, match=r"train\.batch_size \(8 -> 16\)"):
        experiment.train(tiny(dataset, steps=10, batch_size=16), output, "must")
    other = write_d4rl(name="walker.hdf5")
    with pytest.raises(UserError, match="cannot resume"):
        experiment.train(tiny(other, steps=10), output, "must")
    experiment.train(tiny(dataset, steps=20), output, "must")  # constant rate: may be longer
    assert list(losses(output)) == list(range(1, 21))
    with pytest.raises(UserError, match=r"train\.schedule"):
        experiment.train(tiny(dataset, steps=30, schedule="cosine"), output, "must")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    write_d4rl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"

    calls = []

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        mean = masked_mean(*arguments)
        return mean * float("nan") if len(calls) == 14 else mean  # the first is for the cost

    made = tiny(write_d4rl(), log_every=4)
    monkeypatch.setattr("decision_seq.training.update.masked_mean", poisoned)
    with pytest.raises(UserError, match=r"the loss became nan.* at update 14, .* rows (\d+, ){6}"):
        experiment.train(made, output)
    assert [path.name for path in checkpoints(output / "checkpoints")] == ["step-00000010"]
    fault = json.loads((output / "fault.json").read_text())
    sampler = RandomWindows(Pool(open_dataset(made.dataset).offsets, 6), 0, 8)
    assert (fault["update"], fault["windows"]) == (14, sampler.ids(13).tolist())


def test_bf16_trains_too(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    experiment.train(tiny(write_d4rl(), steps=5, precision="bf16"), tmp_path / "bf16")
    experiment.train(tiny(write_d4rl(), steps=5), tmp_path / "fp32")
    for half, full in zip(
        losses(tmp_path / "bf16").values(), losses(tmp_path / "fp32").values(), strict=True
    ):
        assert half == pytest.approx(full, rel=0.02)
        assert half != full


def test_a_run_that_cannot_begin_leaves_nothing(
    write_d4rl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "deep" / "er" / "run"
    bad = write_d4rl(change={"observations": lambda a: a * float("nan")})
    with pytest.raises(UserError, match="NaN"):
        experiment.train(tiny(bad), output)
    assert not (tmp_path / "deep").exists()
    # files of another run that began meanwhile in the same new folder are not removed
    (tmp_path / "deep").mkdir()

    def neighbour_then_fail(*_: object) -> None:
        (tmp_path / "deep" / "neighbour").mkdir()
        raise UserError("late")

    monkeypatch.setattr(experiment, "prepare", neighbour_then_fail)
    (tmp_path / "deep").rmdir()
    with pytest.raises(UserError, match="late"):
        experiment.train(tiny(bad), output)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["neighbour"]
    assert "WORLD_SIZE" not in os.environ
