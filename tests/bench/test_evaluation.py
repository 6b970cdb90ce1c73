"""Tests of `bench evaluate`: the original's procedure runs and gives the same episodes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.bench.evaluation import ORIGINAL, bench_evaluation, evaluation_text
from decision_seq.runs.experiment import train
from decision_seq.types import UserError
from tests.test_train import tiny


def test_both_procedures_roll_out_the_same_episodes(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny(write_d4rl()), run)
    result = bench_evaluation(run, 3, ["fp32"])
    original, ours = result["rows"]
    assert original["name"] == ORIGINAL
    assert ours["steps"] == original["steps"] > 0
    assert ours["return_mean"] == pytest.approx(original["return_mean"], rel=1e-3)
    assert 0 < result["largest_difference_of_actions"] < 1e-5
    assert "paired difference" in evaluation_text(result)


def test_another_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        bench_evaluation(tmp_path / "none", 3, ["fp32"])
