"""Tests of the training loop: evaluations, retained checkpoints, and signals at any moment."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.evaluation import evaluate_checkpoint
from decision_seq.policies import DecisionTransformer
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.training import Interrupted, masked_mean
from decision_seq.types import Bar, Reporter, UserError
from tests.test_train import losses, tiny

EVALUATION = {"episodes": 4, "targets": [300.0, 100.0], "every": 8}


@pytest.fixture
def config(write_d4rl: Callable[..., Path]) -> Callable[..., Config]:
    dataset = write_d4rl()

    def config(evaluation: dict | None = None, **train: object) -> Config:
        asked = {
            "train": {"checkpoint_every": 20, **train},
            "evaluation": {**EVALUATION, **(evaluation or {})},
        }
        return configs.load(Config, configs.to_tree(tiny(dataset)), asked)

    return config


def evaluations(run: Path) -> dict[int, dict]:
    records = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps))
    return dict(zip(steps, records, strict=True))


def returns(record: dict) -> list[list[float]]:
    return [target["returns"] for target in record["targets"]]


def test_evaluations_on_the_way_change_nothing(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    finished = experiment.train(config(), tmp_path / "with")
    experiment.train(config({"episodes": 0}), tmp_path / "without")
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert list(evaluations(tmp_path / "with")) == [8, 16, 24, 32, 40]
    assert finished is not None
    assert finished.scores is not None
    # and a score equals that of the checkpoint alone
    alone = evaluate_checkpoint(finished.checkpoint)
    assert [t.returns for t in alone.targets] == [t.returns for t in finished.scores.targets]
    assert json.loads((tmp_path / "with" / "scores.json").read_text())["targets"][0]["returns"] == (
        alone.targets[0].returns
    )


def test_trackers_see_the_evaluations(config: Callable[..., Config], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    experiment.train(config(trackers=["tensorboard"]), run)
    events = EventAccumulator(str(next(run.rglob("events*")).parent))
    events.Reload()
    for at, target in enumerate(evaluations(run)[40]["targets"]):
        suffix = f"/target_{target['target']:g}" if at else ""  # as for a policy without a target
        shown = events.Scalars(f"evaluation/return_mean{suffix}")
        expected = {n: r["targets"][at]["return_mean"] for n, r in evaluations(run).items()}
        assert {scalar.step: scalar.value for scalar in shown} == pytest.approx(expected)


def test_the_best_is_kept_beside_the_last(config: Callable[..., Config], tmp_path: Path) -> None:
    run = tmp_path / "run"
    experiment.train(config(keep_best="return", keep_checkpoints=1), run)
    means = {step: record["targets"][0]["return_mean"] for step, record in evaluations(run).items()}
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert best["step"] == max(means, key=means.__getitem__)
    assert best["return_mean"] == max(means.values())
    kept = {int(path.name[-8:]) for path in checkpoint.checkpoints(run / "checkpoints")}
    assert kept == {best["step"], 40}


class StopAt(Reporter):
    """Reporter that sends this process SIGTERM after `update` updates."""

    def __init__(self, update: int) -> None:
        self.left = update

    @contextmanager
    def bar(self, what: str, unit: str, total: int, initial: int = 0) -> Iterator[Bar]:
        with super().bar(what, unit, total, initial) as bar:
            if what == "train":
                bar.update = self.count  # type: ignore[method-assign]
            yield bar

    def count(self, n: int = 1) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_no_weights_are_saved_that_nobody_has_looked_at(
    config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal arrives between two records, after an update that was not finite."""
    calls = []

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return masked_mean(*arguments) * (float("nan") if len(calls) == 24 else 1)

    monkeypatch.setattr("decision_seq.training.update.masked_mean", poisoned)
    made = config({"episodes": 0}, log_every=10, keep_checkpoints=1)
    with pytest.raises(UserError, match="at update 24"):
        experiment.train(made, tmp_path / "run", reporter=StopAt(25))
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-00000020"
    ]


def test_a_damaged_newer_checkpoint_does_not_displace_a_sound_one(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = {"checkpoint_every": 10, "keep_checkpoints": 1}
    experiment.train(config({"episodes": 0}, steps=20, **{**made, "keep_checkpoints": 2}), run)
    newest = run / "checkpoints" / "step-00000020"
    (newest / checkpoint.WEIGHTS).write_bytes(b"")
    with pytest.raises(Interrupted):
        experiment.train(config({"episodes": 0}, **made), run, "must", reporter=StopAt(5))
    assert checkpoint.fault(run / "checkpoints" / "step-00000015") is None
    experiment.train(config({"episodes": 0}, **made), run, "must")
    assert list(losses(run)) == list(range(1, 41))


def test_the_best_is_noted_though_a_kill_came_between(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    """The kill comes after the record of the evaluation and before that of the best."""
    run = tmp_path / "run"
    made = config({"every": 20}, keep_best="return", keep_checkpoints=1)
    experiment.train(made, run)
    (run / "checkpoints" / "best.json").unlink()
    experiment.train(made, run, "must")
    assert json.loads((run / "checkpoints" / "best.json").read_text())["step"] == 40
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 2


def test_a_run_is_not_resumed_into_fewer_updates(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    experiment.train(config({"episodes": 0}), run)
    with pytest.raises(UserError, match=r"train\.steps 30: 40 are done"):
        experiment.train(config({"episodes": 0}, steps=30), run, "must")


class Signalling(Reporter):
    """Reporter that sends a signal when the n-th rollout has ended its first episode."""

    def __init__(self, rollout: int) -> None:
        self.left = rollout

    @contextmanager
    def bar(self, what: str, unit: str, total: int, initial: int = 0) -> Iterator[Bar]:
        self.left -= what == "evaluate"
        send = what == "evaluate" and self.left == 0
        with super().bar(what, unit, total, initial) as bar:
            if send:
                bar.update = lambda n=1: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore
            yield bar


# What the uninterrupted run has logged and rolled out; made once.
WHOLE: list[tuple[dict[int, float], dict[int, list[list[float]]]]] = []


@pytest.mark.parametrize("rollout", [2, 5], ids=["on the way", "at the end"])
def test_a_signal_ends_an_evaluation_at_once(
    config: Callable[..., Config], tmp_path: Path, rollout: int
) -> None:
    """The checkpoint is written before; the resumed run begins with the missing evaluation."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    if not WHOLE:
        experiment.train(config(), whole)
        WHOLE.append((losses(whole), {s: returns(r) for s, r in evaluations(whole).items()}))
    with pytest.raises(Interrupted) as caught:
        experiment.train(config(), run, reporter=Signalling(rollout))
    assert caught.value.number == signal.SIGTERM
    assert caught.value.path.name == f"step-{8 * rollout:08d}"
    assert checkpoint.fault(caught.value.path) is None
    assert list(evaluations(run)) == [8, 16, 24, 32, 40][: rollout - 1]
    assert signal.getsignal(signal.SIGTERM) is not None
    experiment.train(config(), run, "must")
    found = losses(run), {s: returns(r) for s, r in evaluations(run).items()}
    assert found == WHOLE[0]


def test_a_finished_run_is_evaluated_anew_by_another_protocol(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = experiment.train(config({"every": 0}), run)
    again = experiment.train(config({"every": 0}), run, "must")
    assert first is not None
    assert first == again
    other = experiment.train(config({"every": 0, "seed": 77}), run, "auto")
    assert other is not None
    assert other.scores is not None
    assert other.scores.targets[0].seed == 77
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 2


def test_the_scale_of_the_loss_is_part_of_a_checkpoint(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = {"precision": "fp16", "keep_checkpoints": 9}
    experiment.train(config({"episodes": 0}, steps=20, **small), run)
    state = run / "checkpoints" / "step-00000020" / checkpoint.STATE
    tree = json.loads(state.read_text())
    assert tree["scaler"]["scale"] == 65536
    tree["scaler"]["scale"] = 1024.0
    state.write_text(json.dumps(tree))
    experiment.train(config({"episodes": 0}, **small), run, "must")
    found = json.loads((run / "checkpoints" / "step-00000040" / checkpoint.STATE).read_text())
    assert found["scaler"]["scale"] == 1024


def test_auto_begins_where_there_is_no_run(config: Callable[..., Config], tmp_path: Path) -> None:
    made = config({"episodes": 0})
    experiment.train(made, tmp_path / "run", "auto")
    assert list(losses(tmp_path / "run")) == list(range(1, 41))
    with pytest.raises(UserError, match="nothing to resume"):
        experiment.train(made, tmp_path / "other", "must")
    assert not (tmp_path / "other").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="nothing to resume"):
        experiment.train(made, tmp_path / "other", "must")
    assert not list((tmp_path / "other").iterdir())
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds no run"):
        experiment.train(made, tmp_path / "other", "auto")


def test_a_policy_is_fitted_once_however_often_it_is_evaluated(
    config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy for an evaluation holds what was fitted already; it never reads the data."""
    fitted = []
    fit = DecisionTransformer.fit

    def counted(policy: DecisionTransformer, *data: object) -> None:
        fitted.append(policy)
        fit(policy, *data)

    monkeypatch.setattr(DecisionTransformer, "fit", counted)
    experiment.train(config(), tmp_path / "run")
    assert len(evaluations(tmp_path / "run")) == 5
    assert len(fitted) == 1
