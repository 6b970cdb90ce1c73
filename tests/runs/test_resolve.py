"""Tests of how the configuration is applied to the data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from decision_seq.config import load, override
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.frames import FrameColumn
from decision_seq.evaluation import Evaluation, EvaluationConfig
from decision_seq.policies import PolicyConfig
from decision_seq.runs.resolve import Config, open_data, prepare
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines, make_episode

NOT_ROLLED_OUT = {"evaluation": {"episodes": 0}}


def test_frames_are_kept_within_the_memory_asked_for(
    make_frame_store: Callable[..., EpisodeStore],
) -> None:
    path = str(make_frame_store([500], size=(84, 84)).path)
    config = load(Config, {"dataset": path}, override("frame_memory", "2"))
    column = open_data(config, Reporter()).columns["observations"]
    assert isinstance(column, FrameColumn)
    assert column._slots.nbytes <= 2 << 20
    with pytest.raises(UserError, match="frame_memory 0 must be at least 1"):
        load(Config, override("frame_memory", "0"))


def test_a_policy_is_made_for_what_the_environment_shows_and_offers(
    make_frame_store: Callable[..., EpisodeStore],
) -> None:
    """Sizes come from the environment, not from single frames or the actions in the data."""
    path = str(make_frame_store([40], choices=18).path)
    spec = prepare(load(Config, {"dataset": path}, NOT_ROLLED_OUT), Reporter()).spec
    assert (spec.observation_shape, spec.action_kind, spec.action_size) == (
        (4, 10, 12),
        "discrete",
        18,
    )


@pytest.mark.parametrize(("name", "size"), [("outcome", 2), ("goal", 2 + 11)])
def test_what_models_outcomes_is_asked_for_nothing(
    write_d4rl: Callable[..., Path], name: str, size: int
) -> None:
    """It has labels, but no target is declared, and the discount reaches the policy."""
    tree = {"dataset": str(write_d4rl()), "evaluation": {"targets": [3600.0]}}
    asked = {"policy": {"name": "tt"}, "conditioning": {"name": name, "discount": 0.9}}
    problem = prepare(load(Config, tree, asked), Reporter())
    assert (problem.spec.condition_size, problem.spec.discount) == (size, 0.9)
    assert problem.config.evaluation.targets is None
    assert problem.facts.targets == ()
    evaluation = Evaluation.of(
        EvaluationConfig(targets=(3600.0,)), problem.config.conditioning, 5, problem.facts
    )
    assert evaluation.targets == ()
    assert prepare(load(Config, tree), Reporter()).spec.discount == 1.0


def test_what_is_taken_of_logs_is_configured(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    from tests.datasets.dqn_replay.test_dqn_replay import padded, played, write_shard

    logs = tmp_path / "Breakout"
    write_shard(logs, 0, padded([played(20, 0), played(9, 1)]))
    first = override("replay.scheme", "first"), override("replay.transitions", "5")
    config = load(Config, {"dataset": str(logs)}, *first)
    assert open_data(config, Reporter()).num_transitions == 20
    assert open_data(load(Config, {"dataset": str(logs)}), Reporter()).num_transitions == 29
    for key, value in {"transitions": "0", "seed": "-1", "scheme": "some"}.items():
        with pytest.raises(UserError, match=f"replay.{key}|{value}"):
            load(Config, override(f"replay.{key}", value))


# The conditionings that each policy can be trained on. Later entries of the registries need none.
FITTING = {
    "dt": {"return", "shuffled_return", "none", "feature", "histogram"},
    "bc": {"return", "shuffled_return", "none", "feature", "histogram"},
    "bdt": {"none"},
    "tt": {"outcome", "goal"},
    "return_predictor": {"outcome"},
}


CONDITIONINGS = set().union(*FITTING.values())


@pytest.mark.parametrize("conditioning", sorted(CONDITIONINGS))
@pytest.mark.parametrize("policy", sorted(FITTING))
def test_a_policy_knows_its_labels_by_name(policy: str, conditioning: str) -> None:
    """Never by their width: a histogram of two bins is no reward and value."""
    wide = {"bins": 2} if conditioning == "histogram" else {}
    tree = {"policy": {"name": policy}, "conditioning": {"name": conditioning, **wide}}
    if conditioning in FITTING[policy]:
        load(Config, tree)
        return
    named = f"conditioning.name {conditioning} gives .*; the policy {policy} .*: take --cond"
    with pytest.raises(UserError, match=named) as error:
        load(Config, tree)
    offered = str(error.value).rpartition("name ")[2].split(" or ")
    assert set(offered) & CONDITIONINGS == FITTING[policy]


def short_store(
    path: Path, lengths: tuple[int, ...] = (3, 5, 4), reward: float | None = None
) -> Path:
    with StoreWriter(path) as writer:
        for index, length in enumerate(lengths):
            episode = make_episode(length, index)
            if reward is not None:
                rewards = np.full_like(episode.rewards, reward / length)
                episode = dataclasses.replace(episode, rewards=rewards)
            writer.append(episode)
        return writer.finish(
            "short",
            {"kind": "test", "description": "short episodes"},
            env_id=None,
            family=None,
            max_episode_steps=None,
            transitions_in=sum(lengths),
            has_timeouts=True,
        ).path


@pytest.mark.parametrize("named", [None, 11], ids=["default", "by the user"])
@pytest.mark.parametrize("policy", PolicyConfig.get_known_choices())
def test_a_context_longer_than_every_episode_is_cut_where_the_policy_needs_it(
    tmp_path: Path, policy: str, named: int | None
) -> None:
    tree = {"dataset": str(short_store(tmp_path / "short")), **NOT_ROLLED_OUT}
    asked = {"name": policy} if named is None else {"name": policy, "context_length": named}
    conditioning = sorted(FITTING[policy])[0]
    lines = Lines()
    config = load(Config, tree, {"policy": asked, "conditioning": {"name": conditioning}})
    problem = prepare(config, lines)
    before, after = config.policy.context_length, problem.config.policy.context_length
    assert after == (5 if config.policy.fills_context else before)
    said = f"no episode is longer than 5 steps, so policy.context_length is 5, not {before}"
    assert any(said in line for line in lines.lines) == (after < before)
    problem.config.policy.build(problem.spec)
    again = Lines()
    assert prepare(problem.config, again).config == problem.config
    assert not any("context_length" in line for line in again.lines)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 100), (100, 10_000), (100, 99)])
def test_a_warm_up_as_long_as_the_training_is_told(tmp_path: Path, steps: int, warmup: int) -> None:
    tree = {"dataset": str(short_store(tmp_path / "short")), **NOT_ROLLED_OUT}
    lines = Lines()
    prepare(load(Config, tree, {"train": {"steps": steps, "warmup_steps": warmup}}), lines)
    told = [line for line in lines.lines if "learning rate still rises" in line]
    assert len(told) == (warmup >= steps)
    for line in told:
        assert f"after {steps} updates (train.warmup_steps {warmup})" in line
        assert f"to {100 * steps // warmup} % of train.learning_rate" in line


def test_equal_targets_are_rolled_out_once_and_told(tmp_path: Path) -> None:
    path = short_store(tmp_path / "short", reward=10.0)
    tree = {"dataset": str(path), "evaluation": {"env_id": "Hopper-v4", "targets": None}}
    lines = Lines()
    problem = prepare(load(Config, tree), lines)
    assert problem.config.evaluation.targets == problem.facts.targets == (10.0,)
    assert "targets: max and median are 10; rolled out once" in lines.lines
