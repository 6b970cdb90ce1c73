"""Tests of credit assignment on the real environment, against independent arithmetic."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

from decision_seq.analysis.credit_assignment import attention_of_steps, explain, play, whole
from decision_seq.cli import main
from decision_seq.datasets.store import StoreWriter
from decision_seq.envs.key_to_door import STEPS
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.report.statistics import area_under_curve
from decision_seq.sequences.conditioning import ReturnToGo
from decision_seq.types import Spec, UserError

ENV = "KeyToDoor-v0"
LONGEST = sum(STEPS)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Run of a return predictor after a few updates."""
    with StoreWriter(tmp_path / "walks") as writer:
        for one in play(ENV, 60, 1_000, "key", "phase"):
            writer.append(one.episode)
        total = sum(writer.lengths)
        store = writer.finish(
            "walks",
            {"kind": "test", "description": "random walks"},
            env_id=ENV,
            family=None,
            max_episode_steps=LONGEST,
            transitions_in=total,
            has_timeouts=True,
        )
    settings: dict[str, object] = {
        "dataset": store.path,
        "policy.name": "return_predictor",
        "policy.context_length": LONGEST,
        "policy.backbone.width": 16,
        "conditioning.name": "outcome",
        "conditioning.discount": 1.0,
        "train.steps": 2,
        "evaluation.episodes": 2,
        "output": tmp_path / "run",
    }

    def make(**more: object) -> Path:
        chosen = settings | {key.replace("__", "."): value for key, value in more.items()}
        given = [part for key, value in chosen.items() for part in (f"--{key}", str(value))]
        assert main(["train", *given]) == 0
        return tmp_path / "run"

    return make


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    return make_run()


def test_what_is_told_is_what_was_played(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["explain", str(run), "--episodes", "80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((run / "explanation.json").read_text()) == found
    assert (run / "explanation.png").stat().st_size > 10_000
    played = play(ENV, 80, 0, "key", "phase")
    assert found["happened"] == sum(one.happened[-1] for one in played) > 10
    assert found["succeeded"] == sum(one.episode.rewards.sum() for one in played)
    groups = found["estimates"]["groups"]
    assert sum(group["episodes"] for group in groups.values()) == 80
    assert set(found["estimates"]["separated"]) == {"1", "2", "3"}
    assert found["attention"]["episodes"] <= found["happened"]
    assert main(["explain", str(run), "--episodes", "30"]) == 0
    assert "area under the curve at the end of phase 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--event", "lock"], "KeyToDoor-v0 tells of no 'lock' (it tells of key, phase)"),
        (["--stage", "room"], "tells of no 'room'"),
        (["--episodes", "1"], "--episodes 1 must be at least 2"),
        (["--seed", "-1"], "--seed -1 must not be negative"),
    ],
)
def test_what_cannot_be_told_is_said(
    run: Path, given: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(run), *given]) == 2
    assert named in capsys.readouterr().err
    assert not (run / "explanation.json").exists()


class Teller(gymnasium.Env):
    """An environment without end whose `info` is what it was given."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def __init__(self, first: Any = None, then: Any = None) -> None:
        self.first, self.then = first, then

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), self.first

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 1.0, False, False, self.then


SOUND = {"key": 0, "phase": 1}


@pytest.mark.parametrize(
    ("first", "then", "named"),
    [
        (None, SOUND, "gives an info of type NoneType, not a dict"),
        (SOUND, None, "gives an info of type NoneType, not a dict"),
        (SOUND, {"key": 1}, r"tells of no 'phase' \(it tells of key\)"),
        (SOUND, {"key": 1, "phase": "first"}, "a whole number, are needed"),
        (SOUND, {"key": 1, "phase": [1]}, "a whole number, are needed"),
    ],
)
def test_an_odd_info_is_named(
    first: Any, then: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EnvSpec("Teller-v0", entry_point=Teller, disable_env_checker=True)
    spec.kwargs = {"first": first, "then": then}
    monkeypatch.setitem(gymnasium.registry, "Teller-v0", spec)
    with pytest.raises(UserError, match=named):
        play("Teller-v0", 1, 0, "key", "phase")


def test_an_episode_without_end_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EnvSpec("Teller-v0", entry_point=Teller, disable_env_checker=True)
    spec.kwargs = {"first": SOUND, "then": SOUND}
    monkeypatch.setitem(gymnasium.registry, "Teller-v0", spec)
    monkeypatch.setattr("decision_seq.analysis.credit_assignment.MOST_STEPS", 9)
    (one,) = play("Teller-v0", 1, 0, "key", "phase")
    assert len(one.episode) == 9
    assert one.episode.truncated
    assert set(one.episode.actions) <= set(range(6))


def test_an_episode_that_a_window_cannot_hold_is_refused(make_run: Callable[..., Path]) -> None:
    run = make_run(policy__context_length=9, evaluation__episodes=0)
    with pytest.raises(UserError, match=f"context_length {LONGEST}"):
        explain(run, 5)


def test_episodes_are_played_at_random_and_the_same_again() -> None:
    first, again = (play(ENV, 30, 5, "key", "phase") for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.episode.observations, other.episode.observations)
    actions = np.concatenate([one.episode.actions for one in first])
    assert np.bincount(actions, minlength=4).min() > 0.2 * len(actions)
    for one in first:  # once taken, the key is held, and rooms only increase
        assert (np.diff(one.happened.astype(int)) >= 0).all()
        assert one.stages[0] == 1
        assert (np.diff(one.stages) >= 0).all()


def test_the_attention_of_steps_is_that_of_their_tokens() -> None:
    torch.manual_seed(0)
    played = [one.episode for one in play(ENV, 3, 0, "key", "phase")]
    size = played[0].observations.shape[1]
    spec = Spec((size,), 4, "discrete", 1, LONGEST)
    backbone = GPTConfig(layers=2, heads=2, width=16)
    policy = DecisionTransformerConfig(LONGEST, backbone).build(spec).eval()
    batch = whole(played, ReturnToGo(1.0))
    assert batch.lengths.tolist() == [len(episode) for episode in played]
    found = attention_of_steps(policy, batch)
    looks = policy.backbone.attention(policy.all_tokens(policy.encoded(batch))).detach().numpy()
    for t, s in itertools.product((0, 4, 11), (0, 3, 11)):
        asked = looks[:, 1, :, 3 * t : 3 * t + 3, 3 * s : 3 * s + 3]  # an episode, its layers
        assert found[1, t, s] == pytest.approx(asked.sum(-1).mean(), abs=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_the_area_under_the_curve_is_how_often_a_positive_outscores_a_negative() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 60).astype(float)  # with ties
    positive = rng.random(60) < 0.4
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    expected = np.mean([(high > low) + 0.5 * (high == low) for high, low in pairs])
    area, (low, high) = area_under_curve(scores, positive)
    assert area == pytest.approx(expected)
    assert low < area < high
    assert area_under_curve(np.arange(5), np.arange(5) > 2) == (1.0, (1.0, 1.0))
