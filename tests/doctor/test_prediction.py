"""Tests of the prediction of what a run needs."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.doctor import machine
from decision_seq.doctor.check import FAILED, Check
from decision_seq.doctor.prediction import Prediction, flops_text, predict, prediction_text
from decision_seq.runs.resolve import Config
from decision_seq.types import UserError
from tests.test_train import tiny


@pytest.fixture
def config(write_d4rl: Callable[..., Path]) -> Config:
    return tiny(write_d4rl())


def test_the_numbers_fit_together(config: Config, tmp_path: Path) -> None:
    resolved, found = predict(config, tmp_path / "run")
    assert resolved.conditioning.scale == 1000.0  # type: ignore[attr-defined]
    policy = resolved.policy
    assert found.tokens_per_window == 3 * policy.context_length - 1
    assert found.flops == pytest.approx(found.flops_per_window * 8 * 40)
    # Each fp32 weight has a gradient and two moments.
    assert found.state_bytes == 16 * found.parameters
    assert found.update_seconds == pytest.approx(40 / found.updates_per_second)
    assert found.measured_updates == 20
    assert (found.evaluations, found.evaluation_seconds) == (0, 0.0)
    assert (found.device, found.processes) == ("cpu", 1)
    assert found.peak_memory_gib > 0.05
    assert not (tmp_path / "run").exists()
    assert "evaluations    none" in prediction_text(resolved, found)


def test_evaluations_are_measured(config: Config, tmp_path: Path) -> None:
    evaluation = dataclasses.replace(config.evaluation, episodes=2, every=20)
    _, found = predict(dataclasses.replace(config, evaluation=evaluation), tmp_path / "run")
    assert found.evaluations == 2
    assert found.evaluation_seconds is not None
    assert found.evaluation_seconds > 0


def test_a_simulator_that_fails_is_no_guess(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Check("simulator", FAILED, "the physics are broken")
    monkeypatch.setattr(machine, "simulator", lambda *_: failed)
    evaluation = dataclasses.replace(config.evaluation, episodes=2)
    resolved, found = predict(dataclasses.replace(config, evaluation=evaluation), tmp_path / "run")
    assert found.evaluation_seconds is None
    text = prediction_text(resolved, found)
    assert "evaluations    1, of unknown length: the physics are broken" in text


@pytest.mark.parametrize(
    ("env_id", "named"), [("Nowhere-v0", "Nowhere"), ("HalfCheetah-v4", "name another environment")]
)
def test_an_environment_that_train_refuses_is_refused(
    config: Config, tmp_path: Path, env_id: str, named: str
) -> None:
    evaluation = dataclasses.replace(config.evaluation, episodes=2, env_id=env_id)
    with pytest.raises(UserError, match=named):
        predict(dataclasses.replace(config, evaluation=evaluation), tmp_path / "run")


def test_what_would_keep_the_run_from_beginning_is_refused(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = dataclasses.replace(config.train, trackers=("trackio",))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "trackio" else find(name, *a)
    )
    with pytest.raises(UserError, match="pip install trackio"):
        predict(dataclasses.replace(config, train=train), tmp_path / "run")
    with pytest.raises(UserError, match="does not exist"):
        predict(dataclasses.replace(config, dataset="gone.hdf5"), tmp_path / "run")
    with pytest.raises(UserError, match="no_such_run"):
        predict(dataclasses.replace(config, init_from="no_such_run"), tmp_path / "run")


def test_flops_have_a_suitable_unit() -> None:
    known = {5.0: "5 FLOP", 1.83e8: "183 MFLOP", 3.51e16: "35.1 PFLOP", 2e18: "2 EFLOP"}
    assert {flops: flops_text(flops) for flops in known} == known


def test_a_gpus_memory_is_named_so() -> None:
    fields = {field.name: 1 for field in dataclasses.fields(Prediction)}
    found = Prediction(**{**fields, "device": "cuda", "processes": 2})  # type: ignore[arg-type]
    text = prediction_text(Config(), found)
    assert "(of the GPU)" in text
    assert "on cuda (2 processes)" in text
