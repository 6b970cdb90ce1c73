"""Tests of how the configuration is applied to the data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.config import load, override
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.frames import FrameColumn
from decision_seq.evaluate import Evaluation, EvaluationConfig
from decision_seq.runs.resolve import Config, open_data, prepare
from decision_seq.types import Reporter, UserError

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
