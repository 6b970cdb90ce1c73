"""Tests of the evaluation protocol: episodes, their distribution over processes, scores."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from decision_seq.datasets.store import EpisodeStore
from decision_seq.evaluation import Evaluation, EvaluationConfig, score
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.report.statistics import mean_interval
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.types import Spec, TargetScore, UserError

K = 8
HOPPER = (-20.272305, 3234.3)  # reference scores
CONDITIONING = ReturnToGo(100.0)


@pytest.fixture
def policy(store: EpisodeStore, spec: Spec) -> Policy:
    torch.manual_seed(0)
    made = DecisionTransformerConfig(K, GPTConfig(width=32)).build(spec)
    made.fit(store, label(store, CONDITIONING))
    return made.eval()


def scored(
    policy: Policy, targets: tuple[float, ...], episodes: int, seed: int
) -> tuple[list[TargetScore], float]:
    evaluation = Evaluation(CONDITIONING, K, "Hopper-v4", targets, episodes, seed, HOPPER)
    return evaluation.scores([evaluation.rank_part(policy)])


@pytest.mark.parametrize("world", [2, 3, 7])
def test_scores_do_not_depend_on_the_number_of_ranks(policy: Policy, world: int) -> None:
    evaluation = Evaluation(CONDITIONING, K, "Hopper-v4", (300.0, 100.0), 9, 3, HOPPER, workers=1)
    parts = [json.loads(json.dumps(evaluation.rank_part(policy, r, world))) for r in range(world)]
    together, _ = evaluation.scores(parts)
    alone, _ = evaluation.scores([evaluation.rank_part(policy)])
    assert together == alone
    assert len({value for target in alone for value in target.returns}) == 18


def test_scores_do_not_depend_on_the_number_of_processes(policy: Policy) -> None:
    def scores(workers: int) -> list[TargetScore]:
        evaluation = Evaluation(
            CONDITIONING, K, "Hopper-v4", (300.0, 100.0), 16, 3, HOPPER, workers=workers
        )
        assert evaluation.layout(policy, 32, alone=True)[1] == workers
        return evaluation.scores([evaluation.rank_part(policy)])[0]

    assert scores(3) == scores(1)


def test_the_same_seeds_give_the_same_scores(policy: Policy) -> None:
    def scores(seed: int) -> Sequence[list[float]]:
        found, rate = scored(policy, (300.0, 100.0), 3, seed)
        assert rate > 0
        assert [len(target.returns) for target in found] == [3, 3]
        return [target.returns for target in found]

    assert scores(5) == scores(5)
    assert scores(5) != scores(6)
    assert scores(5)[0][1:] == pytest.approx(scores(6)[0][:2], rel=1e-3)  # episode i: seed + i


def test_the_target_reaches_the_policy(policy: Policy) -> None:
    found, _ = scored(policy, (3000.0, -3000.0), 2, 0)
    assert found[0].returns != found[1].returns


def test_a_score_is_normalised_with_its_interval() -> None:
    returns = np.array([1000.0, 1200.0, 1100.0, 900.0])
    made = score(3600, returns, np.array([300, 400, 350, 280]), 7, HOPPER)
    assert made.normalized_score == pytest.approx(100 * (1050 + 20.272305) / (3234.3 + 20.272305))
    low, high = made.interval_95
    # t(3, 0.975) = 3.182446 (any table); the standard error is 64.5497
    assert high - low == pytest.approx(2 * 3.182446 * 64.5497 * 100 / 3254.572305, rel=1e-5)
    assert (low + high) / 2 == pytest.approx(made.normalized_score)
    raw = score(3600, returns, np.array([300, 400, 350, 280]), 7, None)
    assert raw.normalized_score is None
    assert raw.interval_95 == pytest.approx(mean_interval(returns))


def test_another_environment_is_refused(policy: Policy) -> None:
    with pytest.raises(UserError, match="name another environment"):
        Evaluation(CONDITIONING, K, "HalfCheetah-v4", (1.0,), 1, 0).rank_part(policy)


@pytest.mark.parametrize(
    "bad",
    [
        {"episodes": -1},
        {"targets": (float("inf"),)},
        {"targets": ("q101",)},
        {"seed": -3},
        {"workers": 0},
    ],
)
def test_a_bad_protocol_is_refused(bad: dict) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        EvaluationConfig(**bad)
