"""Tests of open-loop prediction: its reading of tokens, its window, and its error measures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from decision_seq.analysis import model_error
from decision_seq.analysis.model_error import predict
from decision_seq.bench.planning import Uncached
from decision_seq.cli import main
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.sequences.conditioning.outcome import Outcome
from decision_seq.types import UserError
from tests.conftest import make_episode, write_store
from tests.policies.trajectory_transformer.test_policy import BINS, SIZE, WINDOW, make_policy


def test_the_same_without_a_cache(store, monkeypatch) -> None:
    """Tokens are predicted far beyond the window; samples differ, and episodes by their draws."""
    policy = make_policy(store, Outcome())
    with torch.no_grad():  # makes few samples stop
        policy.backbone.norm.bias.fill_(1.0)
        policy.head.weight.view(SIZE, BINS + 1, -1)[:, BINS] = -0.1
    draw = torch.Generator().manual_seed(0)
    prefix = torch.randint(BINS, (2, 3 * SIZE + 11), generator=draw)
    actions = torch.rand(2, 2 * WINDOW, 3, generator=draw) * 2 - 1
    draws = torch.tensor([0.3, 0.6])
    found = predict(policy, prefix, actions, 4, draws)
    assert found.shape == (2, 4, 2 * WINDOW, 11)
    assert (found[0, 0].nan_to_num(9) != found[0, 1].nan_to_num(9)).any()
    stopped = found.isnan()
    assert 0 < stopped[:, :, -1, 0].float().mean() < 1
    assert (stopped == stopped.any(-1, keepdim=True)).all()
    assert (stopped[:, :, 1:] >= stopped[:, :, :-1]).all()
    monkeypatch.setattr(model_error, "Imagination", Uncached)
    torch.testing.assert_close(predict(policy, prefix, actions, 4, draws), found, equal_nan=True)
    other = actions.clone()
    other[:, 5:] = -actions[:, 5:]
    changed = predict(policy, prefix, other, 4, draws)
    torch.testing.assert_close(changed[:, :, :5], found[:, :, :5], equal_nan=True)
    assert (changed[:, :, 5:].nan_to_num(9) != found[:, :, 5:].nan_to_num(9)).any()


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return write_store(tmp_path_factory.mktemp("long"), (40, 7, 60, 25, 18))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, long_store: EpisodeStore) -> Path:
    """A run of a trajectory transformer, trained once; the tests only read it."""
    output = tmp_path_factory.mktemp("trained") / "run"
    overrides = {
        "policy.bins": 16,
        **{f"policy.backbone.{key}": 1 for key in ("layers", "heads")},
        "policy.backbone.width": 8,
        "train.steps": 3,
        "train.batch_size": 4,
        "evaluation.episodes": 0,
        "output": output,
    }
    arguments = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    dataset = ["--dataset", str(long_store.path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECISION_SEQ_DATA", str(output.with_name("stores")))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert main(["train", "--config", "tt/small", *dataset, *arguments]) == 0
    return output


def test_errors_and_pictures(
    run: Path, long_store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    figures = tmp_path / "figures"
    chosen = ["--steps", "12", "--episodes", "3", "--samples", "2", "--output", str(figures)]
    assert main(["predict", str(run), *chosen, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((figures / "prediction.json").read_text()) == found
    assert (figures / "prediction.png").stat().st_size > 20_000
    assert main(["predict", str(run), *chosen]) == 0
    assert "mean of the samples" in capsys.readouterr().out
    assert len(set(found["episodes"]) & {0, 2, 3, 4}) == 3  # those of at least 18 steps
    assert set(found["errors"]) == {
        "mean of the samples",
        "one sample",
        "the last one seen",
        "the true one, binned",
    }
    deviation = long_store.observation_statistics[1]
    still = []
    for index in found["episodes"]:
        seen = long_store.episode(index).observations[:18].astype(np.float64)
        still.append(np.sqrt((((seen[5] - seen[6:18]) / deviation) ** 2).mean(1)))
    np.testing.assert_allclose(
        found["errors"]["the last one seen"]["mean"], np.mean(still, 0), rtol=1e-4
    )
    binned = np.array(found["errors"]["the true one, binned"]["mean"])
    assert (binned < np.array(found["errors"]["the last one seen"]["mean"])[-1]).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--steps", "5000"], "no episode has 5,006 steps"),
        (["--steps", "0"], "--steps 0 must be at least 1"),
        (["--samples", "0"], "--samples 0 must be at least 1"),
        (["--samples", str(10**21)], "must be at most 100,000"),
        (["--seed", "-1"], "--seed -1 must not be negative"),
    ],
)
def test_what_cannot_be_predicted_is_said(run: Path, options, named, capsys) -> None:
    assert main(["predict", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert not (run / "prediction.json").exists()


def test_data_of_other_sizes_are_refused(run: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "walker") as writer:
        writer.append(make_episode(30, 0, sizes=(17, 6)))
        facts = {"env_id": None, "family": None, "max_episode_steps": 100, "has_timeouts": True}
        writer.finish("walker", {"kind": "test", "description": "x"}, transitions_in=30, **facts)
    with pytest.raises(UserError, match=r"walker has observations \[17\] .* the policy .* \[11\]"):
        model_error.predict_checkpoint(run, str(tmp_path / "walker"), steps=5)


def test_what_memory_does_not_hold_is_one_line(run: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(model_error, "predict", full)
    with pytest.raises(UserError, match="memory does not hold these futures: lower --samples"):
        model_error.predict_checkpoint(run, steps=5)


def test_what_has_stopped_is_left_out_of_the_errors() -> None:
    nan = float("nan")
    found = model_error._curve(np.array([[1.0, 2.0, nan], [3.0, nan, nan]]))
    assert found["mean"] == [2.0, 2.0, None]
    assert found["low"][0] < 2 < found["high"][0]
    assert found["low"][1:] == found["high"][1:] == [None, None]
    assert model_error._told(torch.tensor([[1.0, nan]])) == [[1.0, None]]
