"""Tests of the model card: its contents, and parsing by the Hub's own reader."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from decision_seq import checkpoint
from decision_seq.evaluation import score
from decision_seq.policies import BehaviourCloningConfig
from decision_seq.report import scores_json
from decision_seq.sequences.conditioning import Unconditioned
from decision_seq.sharing.card import card
from decision_seq.types import Scores, Spec, UserError
from tests.sharing.conftest import FACTS, K


@pytest.fixture
def scored(make_checkpoint: Callable[..., Path]) -> Path:
    path = make_checkpoint()
    returns, lengths = np.array([1000.0, 1200.0]), np.array([300, 400])
    targets = [score(t, returns, lengths, 10_000, FACTS.reference_scores) for t in FACTS.targets]
    scores = Scores("hopper-medium", "a test", "Hopper-v4", str(path), targets, ["a note"])
    (path.parent.parent / "scores.json").write_text(json.dumps(scores_json(scores)))
    return path


def test_the_hub_reads_the_results(scored: Path) -> None:
    text = card(checkpoint.load(scored), "checkpoint")
    data = ModelCard(text).data
    assert data.library_name == "decision-seq"
    assert {"reinforcement-learning", "Hopper-v4"} <= set(data.tags)
    results = [(r.metric_type, r.metric_value, r.dataset_name) for r in data.eval_results]
    assert results[0] == ("mean_reward", "1100.00 +/- 141.42", "Hopper-v4")
    expected = 100 * (1100 + 20.272305) / (3234.3 + 20.272305)
    assert results[1][:2] == ("normalized_score", round(expected, 2))
    assert len(results) == 4
    for said in ("| 3,600 ", "1,100.0 ± 141.4", "a note", "the last one", "source: a test"):
        assert said in text


def test_targets_chosen_later_are_not_said_to_have_been_declared(scored: Path) -> None:
    loaded = checkpoint.load(scored)
    assert "targets were declared before training" in card(loaded, "checkpoint")
    other = replace(loaded, facts=replace(loaded.facts, targets=(100.0,)))
    assert "targets were chosen after training" in card(other, "checkpoint")


def test_a_policy_that_is_asked_for_nothing(
    make_checkpoint: Callable[..., Path], spec: Spec
) -> None:
    path = make_checkpoint(
        BehaviourCloningConfig(K), Unconditioned(), replace(spec, condition_size=0)
    )
    made = score(
        None, np.array([1000.0, 1200.0]), np.array([300, 400]), 10_000, FACTS.reference_scores
    )
    scores = Scores("hopper-medium", "a test", "Hopper-v4", str(path), [made], [])
    (path.parent.parent / "scores.json").write_text(json.dumps(scores_json(scores)))
    loaded = checkpoint.load(path)
    text = card(replace(loaded, facts=replace(loaded.facts, targets=())), "checkpoint")
    assert [r.metric_name for r in ModelCard(text).data.eval_results] == [
        "return",
        "D4RL normalized score",
    ]
    for said in ("| -  ", "1,100.0 ± 141.4 |", "targets: none", "# BC (MLP) on"):
        assert said in text


def test_the_title_is_the_methods_name(scored: Path) -> None:
    loaded = checkpoint.load(scored)

    def title(**more: object) -> str:
        text = card(replace(loaded, config={**loaded.config, **more}), "checkpoint")
        return next(line for line in text.splitlines() if line.startswith("# "))

    assert title() == "# DT on hopper-medium"
    assert title(method="k5<b>") == r"# DT (k5\<b\>) on hopper-medium"
    assert title(method="dt/gym") == "# DT on hopper-medium"
    assert title(conditioning={"name": "none"}) == "# BC (transformer) on hopper-medium"


def test_scores_of_another_checkpoint_are_not_borrowed(scored: Path) -> None:
    other = scored.with_name("step-00000005")
    scored.rename(other)
    state = json.loads((other / checkpoint.STATE).read_text())
    (other / checkpoint.STATE).write_text(json.dumps({**state, "step": 5}))
    text = card(checkpoint.load(other), "checkpoint")
    assert ModelCard(text).data.eval_results is None
    assert "was not scored" in text


def test_damaged_scores_are_one_line(scored: Path) -> None:
    (scored.parent.parent / "scores.json").write_text("{")
    with pytest.raises(UserError, match=r"scores\.json is damaged"):
        card(checkpoint.load(scored), "checkpoint")
