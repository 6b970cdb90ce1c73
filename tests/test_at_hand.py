"""Tests of the trained policies that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from decision_seq import at_hand, checkpoint
from decision_seq.cli import main
from decision_seq.evaluation.agent import Agent
from decision_seq.types import UserError

NAMES = at_hand.names()
MOST_BYTES = 3_000_000  # of one policy


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_they_are_there_and_small() -> None:
    assert {"bundled/hopper-medium-dt", "bundled/hopper-medium-bc"} <= set(NAMES)
    sizes = [size_of(at_hand.located(Path(name))) for name in NAMES]
    assert max(sizes) <= MOST_BYTES
    assert sum(sizes) <= 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_each_acts_and_has_a_card_and_its_scores(name: str) -> None:
    if "pong" in name:
        pytest.importorskip("ale_py")
    folder = at_hand.located(Path(name))
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["checkpoint"] == name
    card = (folder / "README.md").read_text()
    assert card.startswith(f"# {name}\n\n`decision-seq train ")
    assert f"{scores['targets'][0]['return_mean']:,.1f} ±" in card
    agent = Agent.load(name, device="cpu")
    assert agent.target == scores["targets"][0]["target"]
    agent.reset()
    spec = agent.loaded.policy.spec
    seen = np.zeros(spec.observation_shape, np.uint8 if spec.pixels else np.float32)
    action = np.asarray(agent.act(seen))
    assert action.shape == (() if spec.action_kind == "discrete" else (spec.action_size,))


def test_a_name_that_there_is_not_is_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no policy is called bundled/hoper; there are bundled/"):
        checkpoint.find(Path("bundled/hoper"))


def test_a_folder_of_the_same_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAMES[0]).mkdir(parents=True)
    assert at_hand.located(Path(NAMES[0])) == Path(NAMES[0])
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.find(Path(NAMES[0]))


def test_its_evaluation_is_kept_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["evaluate", "bundled/key-to-door-dt", "--episodes", "2", "--workers", "1"])
    assert (code, len(list(tmp_path.glob("key-to-door-dt-evaluations/*.json")))) == (0, 1)
    assert "checkpoint   bundled/key-to-door-dt\n" in capsys.readouterr().out
