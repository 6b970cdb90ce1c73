"""Tests of the evaluations during training that are made by default."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decision_seq import config as configs
from decision_seq.config import read_yaml
from decision_seq.evaluation import Evaluation
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.policies.trajectory_transformer import TrajectoryTransformerConfig
from decision_seq.report.compare import score_curve
from decision_seq.report.runs import read_run
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.sequences.conditioning import ReturnToGo, Unconditioned
from decision_seq.training import Interrupted
from decision_seq.training.pace import Pace, Work, pace, rollout_seconds, training_seconds
from decision_seq.types import Reporter
from tests.conftest import Lines
from tests.test_train import losses, tiny
from tests.training.test_trainer import StopAt, evaluations, returns

HOPPER = Evaluation(ReturnToGo(1000.0), 20, "Hopper-v4", (3600.0, 1800.0), 50, 10_000)
# The recipe dt/gym on bundled/hopper-medium, two cores.
GYM = Work(
    steps=3000,
    batch_size=64,
    flops=1.83e8,
    forwards=0.5,
    episode_steps=470.0,
    layout=lambda count: (min(count, 8), min(2, -(-count // 8))),
    device="cpu",
    threads=2,
    world=1,
)


def decided(work: Work, evaluation: Evaluation = HOPPER, asked: int | None = None) -> Pace:
    return pace(evaluation, asked, work, Reporter())


def test_ten_where_they_are_cheap() -> None:
    small = HOPPER.during(8)
    assert (small.targets, small.episodes, small.seed) == ((3600.0,), 8, 10_000)
    assert HOPPER.during(None) is HOPPER
    assert decided(GYM) == Pace(300, 8)
    assert 9 * rollout_seconds(small, GYM) < 0.1 * training_seconds(GYM)
    assert 9 * rollout_seconds(HOPPER, GYM) > 0.1 * training_seconds(GYM)
    assert decided(GYM._replace(steps=100_000)) == Pace(10_000, None)  # the whole protocol
    assert decided(GYM._replace(steps=100_000), asked=3) == Pace(10_000, 3)
    assert decided(GYM, replace(HOPPER, episodes=6, targets=(4.0, 3.0, 2.0, 1.0))) == Pace(300, 6)
    assert decided(GYM._replace(steps=3001)).every == 301


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 40, "batch_size": 8},  # a trial
        {"episode_steps": 1000.0},
        {"forwards": 32.0},  # a policy that plans
        {"device": "cuda"},  # the simulator is as slow, the updates are not
        {"threads": 16},
    ],
)
def test_none_where_they_are_not(change: dict[str, Any]) -> None:
    assert decided(GYM._replace(**change)) == Pace(0)
    # Whoever asks for a number of episodes keeps it, should `every` be given later.
    assert decided(GYM._replace(**change), asked=8) == Pace(0, 8)


def test_what_makes_an_evaluation_cheaper() -> None:
    seconds = rollout_seconds(HOPPER, GYM)
    assert rollout_seconds(replace(HOPPER, max_episode_steps=47), GYM) == pytest.approx(
        seconds / 10
    )
    assert rollout_seconds(HOPPER, GYM._replace(world=2)) <= seconds
    unasked = replace(HOPPER, conditioning=Unconditioned(), targets=())
    assert rollout_seconds(unasked, GYM) < seconds
    assert training_seconds(GYM._replace(world=2)) < training_seconds(GYM)


def test_a_plan_takes_many_passes() -> None:
    assert DecisionTransformerConfig().forwards == 0.5
    planned = TrajectoryTransformerConfig()
    assert planned.forwards == 128 * 2 * 15 / 10


@pytest.fixture
def config(write_d4rl: Callable[..., Path]) -> Callable[..., Config]:
    dataset = write_d4rl()

    def config(steps: int = 30, **evaluation: Any) -> Config:
        asked = {"episodes": 1, "targets": [300.0, 100.0], "max_episode_steps": 1, "workers": 1}
        train = {"steps": steps, "checkpoint_every": 50, "trackers": []}
        tree = configs.to_tree(tiny(dataset))
        return configs.load(Config, tree, {"evaluation": asked | evaluation, "train": train})

    return config


def saved(run: Path) -> tuple[int, int | None]:
    tree = read_yaml(run / "config.yaml")["evaluation"]
    return tree["every"], tree["episodes_during"]


def test_a_run_decides_once(config: Callable[..., Config], tmp_path: Path) -> None:
    """The decision is in config.yaml and in the checkpoints; a resumed run goes by it."""
    whole, run, reporter = tmp_path / "whole", tmp_path / "run", Lines()
    experiment.train(config(), whole, reporter=reporter)
    assert saved(whole) == (3, None)
    assert [
        line for line in reporter.lines if line.startswith("evaluate: the whole protocol every")
    ]
    assert list(evaluations(whole)) == list(range(3, 31, 3))
    with pytest.raises(Interrupted) as stopped:
        experiment.train(config(), run, reporter=StopAt(20))
    described = read_yaml(stopped.value.path / "config.yaml")["evaluation"]
    assert (described["every"], described["episodes_during"]) == (3, None)
    # A configuration that leaves it open, as a sweep gives it, does not decide anew.
    experiment.train(config(max_episode_steps=2), run, "must")
    assert saved(run) == (3, None)
    assert list(evaluations(run)) == list(evaluations(whole))
    assert losses(run) == losses(whole)
    experiment.train(config(every=0), tmp_path / "end")
    assert list(evaluations(tmp_path / "end")) == [30]
    assert saved(tmp_path / "end") == (0, None)


def test_a_short_run_is_evaluated_at_its_end(config: Callable[..., Config], tmp_path: Path) -> None:
    experiment.train(config(steps=5), tmp_path / "run")
    assert list(evaluations(tmp_path / "run")) == [5]
    assert saved(tmp_path / "run") == (0, None)


def test_small_evaluations_are_a_curve_and_no_result(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    experiment.train(config(steps=8, every=2, episodes=3, episodes_during=2), run)
    found = evaluations(run)
    assert [len(record["targets"]) for record in found.values()] == [1, 1, 1, 2]
    assert [len(returns(record)[0]) for record in found.values()] == [2, 2, 2, 3]
    assert [record["protocol"]["episodes"] for record in found.values()] == [2, 2, 2, 3]
    scores = json.loads((run / "scores.json").read_text())
    assert [len(target["returns"]) for target in scores["targets"]] == [3, 3]
    read = read_run(run)
    assert [step for step, _ in score_curve(read)] == [2, 4, 6, 8]
    assert [record["step"] for record in read.evaluations] == [8]
    assert read.former_targets == ()
    seconds = [record["seconds"] for record in found.values()]
    assert seconds == sorted(seconds)
