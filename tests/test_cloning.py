"""Tests of behaviour cloning and discrete actions, from the command line to the scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from decision_seq import config as configs
from decision_seq.cli import main
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.types import Episode

TRAIN = {"batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 10, "log_every": 1}


@pytest.fixture
def cartpole(tmp_path: Path) -> EpisodeStore:
    """CartPole episodes of a balancing rule with occasional random actions."""
    environment, rng = gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    with StoreWriter(tmp_path / "cartpole") as writer:
        for seed in range(10):
            observations, actions = [environment.reset(seed=seed)[0]], []
            ended = truncated = False
            while not ended and not truncated and len(actions) < 120:
                wise = int(observations[-1][2] + 0.5 * observations[-1][3] > 0)
                actions.append(wise if rng.random() < 0.8 else int(rng.integers(2)))
                found, _, ended, truncated, _ = environment.step(actions[-1])
                observations.append(found)
            rewards = np.ones(len(actions))
            steps = np.array(observations), np.array(actions), rewards
            writer.append(Episode(*steps, ended, not ended))
        return writer.finish(
            "cartpole",
            {"kind": "test", "description": "CartPole, a rule with noise"},
            env_id="CartPole-v1",
            family=None,
            max_episode_steps=500,
            transitions_in=sum(writer.lengths),
            has_timeouts=True,
        )


POLICIES: dict[str, list[str]] = {
    "bc": ["--config", "bc/gym", "--policy.width", "32"],
    "dt": ["--config", "dt/gym", "--policy.backbone.width", "16"],
}


@pytest.mark.parametrize("name", POLICIES)
def test_choices_are_learned_rolled_out_and_measured(
    name: str, cartpole: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    sizes = ["--policy.context_length", "4", "--evaluation.episodes", "2", "--held_out", "0.2"]
    train = [part for key, value in TRAIN.items() for part in (f"--train.{key}", str(value))]
    given = ["--dataset", str(cartpole.path), "--output", str(output), "--train.steps", "100"]
    assert main(["train", *POLICIES[name], *given, *sizes, *train]) == 0
    scores = json.loads((output / "scores.json").read_text())
    assert scores["env_id"] == "CartPole-v1"
    assert all(
        length == total
        for t in scores["targets"]
        for length, total in zip(t["lengths"], t["returns"], strict=True)
    )
    assert scores["targets"][0]["return_mean"] > 50  # a random policy lasts 22 steps
    found = json.loads((output / "offline.json").read_text())["groups"][0]["metrics"]
    assert found["accuracy"]["mean"] > 0.65
    assert np.log(0.5) < found["log_likelihood"]["mean"] < 0  # better than a coin
    assert "log likelihood" in capsys.readouterr().out


def test_the_mlp_learns_a_rule(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    """Actions are a function of the state: the loss falls far below their variance."""
    import h5py

    path = write_d4rl((60,) * 20)
    with h5py.File(path, "r+") as file:
        states = file["observations"][:]
        file["actions"][:] = np.tanh(states[:, :3] / 3 - 0.7)
        variance = float(np.var(file["actions"][:]))
    asked: dict[str, Any] = {
        "dataset": str(path),
        "policy": {"name": "bc", "context_length": 3, "width": 64, "dropout": 0.0},
        "conditioning": {"name": "none"},
        "train": {**TRAIN, "steps": 300, "batch_size": 64, "clip": None},
        "evaluation": {"episodes": 0},
    }
    experiment.train(configs.load(Config, asked), tmp_path / "run")
    trace = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").open()]
    assert np.mean(trace[:5]) > 0.5 * variance
    assert np.mean(trace[-20:]) < 0.05 * variance
