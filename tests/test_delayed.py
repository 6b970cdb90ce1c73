"""Tests of delayed rewards: configuration, training, rollouts, resuming, evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.envs import Environments
from decision_seq.evaluation import Evaluation, evaluate_checkpoint, open_checkpoint
from decision_seq.evaluation.context import Context, StepBuffer
from decision_seq.evaluation.episode_rows import SLOTS
from decision_seq.evaluation.protocol import _help
from decision_seq.evaluation.rollout import rollout_returns
from decision_seq.machine.workers import Counters
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.runs import experiment
from decision_seq.runs.offline import offline_checkpoint
from decision_seq.runs.resolve import Config, config_of, open_data, prepare
from decision_seq.sequences.conditioning import ReturnToGo
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Reporter, Spec, UserError
from tests.conftest import Lines, seal
from tests.test_train import TINY, losses

DELAYED = {"delayed": True}
K = 5


def test_rewards_are_withheld_until_an_episode_ends() -> None:
    """Both receive the same actions, with as many environments as steps, so that ends differ."""
    rng = np.random.default_rng(0)
    dense, late = Environments("Hopper-v4", 3), Environments("Hopper-v4", 3, delayed=True)
    seeds = [4, 5, 6]
    for rows in (None, np.array([1])):  # then one of them is reset
        for environments in (dense, late):
            environments.reset(seeds if rows is None else [9], rows)
        totals = np.zeros(3)
        while dense.running.any():
            acting = np.flatnonzero(dense.running)
            actions = rng.uniform(-1, 1, (len(acting), 3)).astype(np.float32)
            before, obtained, *flags = dense.step(acting, actions)
            after, told, *same = late.step(acting, actions)
            np.testing.assert_array_equal(after, before)
            np.testing.assert_array_equal(same, flags)
            totals[acting] += obtained
            np.testing.assert_array_equal(told, np.where(dense.running[acting], 0, totals[acting]))


@pytest.fixture
def policy(spec: Spec) -> Policy:
    torch.manual_seed(0)
    made = DecisionTransformerConfig(K, GPTConfig(width=32)).build(spec)
    torch.nn.init.normal_(made.actions.head.weight, std=0.2)
    torch.nn.init.normal_(made.embed_condition.weight, std=4.0)
    return made.eval()


def rollouts(
    policy: Policy, delayed: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[np.ndarray], list[np.ndarray]]:
    """Hopper at three targets: returns, and each episode's conditions and rewards."""
    seen: list[np.ndarray] = []
    advance = Context.advance

    def recording(self: Context, actions: torch.Tensor, numbers: torch.Tensor, *rest: Any) -> None:
        seen.append(numbers[:3].numpy().copy())
        advance(self, actions, numbers, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Context, "advance", recording)
        environments = Environments("Hopper-v4", 3, delayed)
        asked = ReturnToGo(20.0), K, environments, [40.0, 60.0, 80.0], [1, 2, 3]
        returns, lengths = rollout_returns(policy, *asked)
    numbers = np.array(seen)
    conditions, rewards = (
        [numbers[:length, row, column] for row, length in enumerate(lengths)]
        for column in (StepBuffer.CONDITION, StepBuffer.REWARD)
    )
    return returns.tolist(), conditions, rewards


def test_what_was_asked_for_stays_and_the_score_counts_everything(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actions are the same here, as the policy ignores its condition."""
    with torch.no_grad():
        policy.embed_condition.weight.zero_()
    dense, counted, _ = rollouts(policy, False, monkeypatch)
    late, constant, rewards = rollouts(policy, True, monkeypatch)
    assert late == dense
    assert len(set(dense)) == 3
    for row, first in enumerate((2, 3, 4)):
        assert len(constant[row]) > K
        assert set(constant[row].tolist()) == {first}
        assert len(set(counted[row].tolist())) == len(counted[row])
        assert not rewards[row].any()


def test_a_policy_that_looks_acts_otherwise(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rollouts(policy, True, monkeypatch)[0] != rollouts(policy, False, monkeypatch)[0]


def test_who_helps_is_told_as_late(policy: Policy) -> None:
    """Runs a worker's rollout in this process; a real worker may get no episode at all."""

    def returns(delayed: bool) -> tuple[list[float], list[float]]:
        protocol = ReturnToGo(20.0), K, "Hopper-v4", (50.0,), 9, 3
        evaluation = Evaluation(*protocol, workers=1, delayed=delayed)
        shared = (policy, *protocol[:2], "fp32", 0.0, None)
        asked, made = evaluation.requests(), ("Hopper-v4", 8, delayed)
        helped = sorted(_help(Counters(SLOTS), asked, made, b"", *shared), key=lambda o: o.index)
        alone = evaluation.scores([evaluation.rank_part(policy)])[0][0].returns
        return [obtained.total for obtained in helped], alone

    late, dense = returns(True), returns(False)
    assert late[0] == late[1]
    assert dense[0] == dense[1]
    assert late != dense


@pytest.fixture
def tiny(write_d4rl: Callable[..., Path]) -> Config:
    asked = {"dataset": str(write_d4rl()), "held_out": 0.4}
    asked["evaluation"] = {"episodes": 2, "workers": 1}
    small = {"train": {"steps": 20, "trackers": []}}
    return configs.load(Config, TINY, DELAYED, small, asked)


def test_a_delayed_run_is_resumed_and_evaluated_as_it_was_trained(
    tiny: Config, tmp_path: Path
) -> None:
    output, reporter = tmp_path / "run", Lines()
    finished = experiment.train(tiny, output, reporter=reporter)
    assert finished is not None
    assert any("--delayed" in line for line in reporter.lines)
    assert finished.scores is not None
    assert any(note.startswith("delayed rewards") for note in finished.scores.notes)
    assert configs.read_yaml(output / "config.yaml")["delayed"] is True
    opened = open_checkpoint(output)
    assert opened.loaded.facts.delayed
    assert opened.evaluation.delayed
    again = evaluate_checkpoint(output)
    assert again.targets == finished.scores.targets
    assert again.notes == finished.scores.notes
    assert offline_checkpoint(output) == finished.offline
    longer = configs.load(Config, configs.to_tree(tiny), {"train": {"steps": 30}})
    dense = configs.load(Config, configs.to_tree(longer), {"delayed": False})
    with pytest.raises(UserError, match=r"another delayed \(True -> False\)"):
        experiment.train(dense, output, "must")
    experiment.train(longer, output, "must")
    assert len(losses(output)) == 30
    straight = experiment.train(longer, tmp_path / "straight")
    assert straight is not None
    assert losses(tmp_path / "straight") == losses(output)


def test_checkpoints_from_before_are_dense(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint()
    tree = configs.read_yaml(path / "config.yaml")
    del tree["data"]["delayed"]
    configs.save_text(path / "config.yaml", json.dumps(tree))
    seal(path)
    assert not checkpoint.load(path).facts.delayed
    configs.save_text(
        path / "config.yaml", json.dumps({**tree, "data": {**tree["data"], "delayed": 1}})
    )
    seal(path)
    with pytest.raises(UserError, match="misstates delayed"):
        checkpoint.load(path)


def test_what_is_delayed_is_what_everyone_opens(tiny: Config) -> None:
    problem = prepare(tiny, Reporter())
    assert problem.store.delayed
    assert problem.facts.checksum == problem.store.checksum
    again = open_data(config_of(configs.to_tree(tiny)), Reporter())
    assert again.checksum == problem.store.checksum
    assert again.columns["rewards"].array[0] == 0
    dense = open_data(configs.load(Config, configs.to_tree(tiny), {"delayed": False}), Reporter())
    assert dense.checksum != again.checksum
    assert prepare(tiny, Reporter()).facts.return_percentiles == problem.facts.return_percentiles


def test_a_policy_that_reads_rewards_trains_on_the_sums(
    write_d4rl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the Trajectory Transformer, all but three rewards of 125 transitions are 0."""
    rewards: list[float] = []
    gather = WindowGatherer.gather

    def recording(self: WindowGatherer, ids: np.ndarray) -> Any:
        batch = gather(self, ids)
        rewards.extend(batch.conditions[..., 0][batch.mask].tolist())
        return batch

    monkeypatch.setattr(WindowGatherer, "gather", recording)
    planner = {"horizon": 2, "beams": 2, "context": 2, "keep": 2}
    policy = {"name": "tt", "context_length": 5, "bins": 8, "planner": planner}
    policy["backbone"] = {"layers": 1, "heads": 2, "width": 16, "dropout": 0.0}
    run = {"policy": policy, "conditioning": {"name": "outcome"}, "dataset": str(write_d4rl())}
    run |= {"train": {"steps": 60, "trackers": []}, "evaluation": {"episodes": 1}}
    asked = configs.load(Config, TINY, DELAYED, run)
    finished = experiment.train(asked, tmp_path / "run")
    assert finished is not None
    assert finished.scores is not None
    assert 0 < np.count_nonzero(rewards) < 0.2 * len(rewards)
    trace = list(losses(tmp_path / "run").values())
    assert sum(trace[-10:]) < 0.9 * sum(trace[:10])
