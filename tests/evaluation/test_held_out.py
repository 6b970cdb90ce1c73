import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decision_seq import config as configs
from decision_seq.cli import main
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.evaluation.held_out import (
    OfflineGroup,
    OfflineScores,
    _estimate,
    offline_metrics,
    offline_text,
)
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import BehaviourCloningConfig, DecisionTransformerConfig, Policy
from decision_seq.runs import experiment
from decision_seq.runs.offline import offline_checkpoint
from decision_seq.runs.resolve import Config, make_sampler, prepare, trained_episodes
from decision_seq.sequences.conditioning import Conditioning, ReturnToGo, Unconditioned, label
from decision_seq.types import Batch, Spec, UserError
from tests.conftest import Lines, lived, make_episode
from tests.test_train import TINY

K = 6
CHOICES = 3


def discrete_store(path: Path, lengths: tuple[int, ...]) -> EpisodeStore:
    rng = np.random.default_rng(3)
    with StoreWriter(path) as writer:
        for index, length in enumerate(lengths):
            actions = rng.integers(0, CHOICES, length)
            writer.append(replace(make_episode(length, index), actions=actions))
        return writer.finish(
            "choices",
            {"kind": "test", "description": "test store"},
            env_id=None,
            family=None,
            max_episode_steps=1000,
            transitions_in=sum(lengths),
            has_timeouts=True,
        )


def make_policy(
    store: EpisodeStore, conditioning: Conditioning, discrete: bool, cloning: bool
) -> Policy:
    torch.manual_seed(0)
    spec = Spec((11,), 3, "discrete" if discrete else "continuous", conditioning.size, 1000)
    tiny = GPTConfig(layers=1, width=16)
    config = BehaviourCloningConfig(K) if cloning else DecisionTransformerConfig(K, tiny)
    policy = config.build(spec)
    policy.fit(store, label(store, conditioning))
    return policy


def plainly(
    policy: Policy, conditioning: Conditioning, store: EpisodeStore, held: np.ndarray
) -> dict[int, list[tuple[float, float]]]:
    """Episode -> measures of its steps, by stepping through a rollout's context."""
    policy.eval()
    found: dict[int, list[tuple[float, float]]] = {}
    for index in np.flatnonzero(held):
        episode, found[index] = store.episode(index), []
        labels = conditioning.relabel(episode)
        for t, batch in enumerate(lived(policy.spec, K, episode, labels)):
            taken, newest = episode.actions[t], min(t, K - 1)
            with torch.no_grad():
                acted = policy.act(batch)[0][1].numpy()
                if policy.spec.action_kind == "discrete":
                    costs = []
                    for choice in range(CHOICES):
                        actions = batch.actions.clone()
                        actions[1, newest] = choice
                        learnt = policy(replace(batch, actions=actions), torch.Generator())
                        costs.append(float(learnt.losses["action"][1, newest]))
                    shares = np.exp(-np.array(costs)) / np.exp(-np.array(costs)).sum()
                    found[index].append((float(acted == taken), float(np.log(shares[taken]))))
                else:
                    error = acted.astype(float) - taken
                    found[index].append((float((error**2).mean()), float(abs(error).mean())))
    return found


def check(group: OfflineGroup, steps: dict[int, list[tuple[float, float]]]) -> None:
    assert group.episodes == len(steps)
    assert group.steps == sum(map(len, steps.values()))
    for at, estimate in enumerate(group.metrics.values()):
        values = [pair[at] for pairs in steps.values() for pair in pairs]
        assert estimate.mean == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("cloning", [False, True], ids=["dt", "bc"])
@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_every_step_is_measured_as_a_rollout_would_see_it(
    make_store: Callable[..., EpisodeStore], tmp_path: Path, discrete: bool, cloning: bool
) -> None:
    lengths = (30, 7, 51, 1, 24, 16)
    store = discrete_store(tmp_path / "c", lengths) if discrete else make_store(lengths)
    conditioning = Unconditioned() if cloning else ReturnToGo(10.0)
    policy = make_policy(store, conditioning, discrete, cloning)
    held = np.array([True, True, False, True, True, True])
    groups = offline_metrics(policy, conditioning, K, store, held)
    steps = plainly(policy, conditioning, store, held)
    check(groups[0], steps)
    assert [g.name for g in groups] == ["all", *(f"return quartile {n}" for n in (1, 2, 3, 4))]
    ranked = sorted(steps, key=lambda index: store.returns[index])  # five: 2, 1, 1, 1
    for group, chosen in zip(groups[1:], (ranked[:2], *([e] for e in ranked[2:])), strict=True):
        check(group, {index: steps[index] for index in chosen})
        low, high = store.returns[chosen[0]], store.returns[chosen[-1]]
        assert group.returns == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("returns", "names"),
    [
        ((1, 1, 1, 1, 1), {"quartiles 1 to 4, tied": (0, 1, 2, 3, 4)}),
        (
            (0, 0, 0, 5, 9),
            {"quartiles 1 to 2, tied": (0, 1, 2), "quartile 3": (3,), "quartile 4": (4,)},
        ),
        ((0, 3, 9, 9, 9), {"quartile 1": (0, 1), "quartiles 2 to 4, tied": (2, 3, 4)}),
        ((0, 4, 4, 4, 9), {"quartiles 1 to 3, tied": (0, 1, 2, 3), "quartile 4": (4,)}),
        (
            (5, 1, 4, 2, 3),
            {f"quartile {n + 1}": at for n, at in enumerate([(1, 3), (4,), (2,), (0,)])},
        ),
    ],
)
def test_episodes_of_one_return_are_measured_together_and_that_is_said(
    tmp_path: Path, returns: tuple[int, ...], names: dict[str, tuple[int, ...]]
) -> None:
    with StoreWriter(tmp_path / "tied") as writer:
        for index, total in enumerate(returns):
            episode = make_episode(4, index)
            writer.append(replace(episode, rewards=np.full_like(episode.rewards, total / 4)))
        source = {"kind": "test", "description": "tied returns"}
        facts = {"env_id": None, "family": None, "max_episode_steps": 1000}
        store = writer.finish("tied", source, **facts, transitions_in=20, has_timeouts=True)
    policy = make_policy(store, ReturnToGo(10.0), False, False)
    groups = offline_metrics(policy, ReturnToGo(10.0), K, store, np.ones(5, bool))
    assert [g.name for g in groups] == ["all", *(f"return {name}" for name in names)]
    for group, episodes in zip(groups[1:], names.values(), strict=True):
        assert group.episodes == len(episodes)
        assert group.returns == (
            min(returns[e] for e in episodes),
            max(returns[e] for e in episodes),
        )
    text = offline_text(OfflineScores("d", "s", "c", 5, 20, groups))
    assert ("tied: episodes of one return" in text) == any("tied" in name for name in names)


def test_of_a_stochastic_head_the_mean_is_measured(make_store: Callable[..., EpisodeStore]) -> None:
    store, conditioning = make_store(), ReturnToGo(10.0)
    torch.manual_seed(0)
    config = DecisionTransformerConfig(K, GPTConfig(layers=1, width=16), head="stochastic")
    policy = config.build(Spec((11,), 3, "continuous", 1, 1000))
    policy.fit(store, label(store, conditioning))
    held = np.array([True, False, True, True, False])
    group = offline_metrics(policy, conditioning, K, store, held)[0]
    check(group, plainly(policy, conditioning, store, held))


def test_no_later_step_and_no_own_action_is_handed_to_the_policy(store: EpisodeStore) -> None:
    """Even a policy that reads such inputs would get a valid score."""
    policy = make_policy(store, ReturnToGo(10.0), False, False)
    seen: list[Batch] = []
    act = policy.act
    policy.act = lambda batch, *a: seen.append(batch) or act(batch, *a)  # type: ignore
    offline_metrics(policy, ReturnToGo(10.0), K, store, np.ones(store.num_episodes, bool))
    assert sum(len(batch.mask) for batch in seen) == store.num_transitions
    for batch in seen:
        newest = torch.arange(K) >= batch.lengths[:, None] - 1
        assert not batch.actions[newest].any()
        assert not batch.rewards[newest].any()
        assert not batch.observations[~batch.mask].any()
        assert not batch.conditions[~batch.mask].any()
        assert batch.terminated is None


def test_an_interval_takes_episodes_as_the_units() -> None:
    """With equal lengths it is the textbook interval of the episodes' means."""
    from scipy import stats

    means = np.random.default_rng(0).normal(2, 1, 9)
    found = _estimate(means * 50, np.full(9, 50))
    low, high = stats.t.interval(0.95, 8, means.mean(), stats.sem(means))
    assert found.mean == pytest.approx(means.mean())
    assert found.interval_95 == pytest.approx((low, high))
    assert _estimate(np.array([3.0]), np.array([2])).interval_95 is None


def test_intervals_of_unequal_episodes_hold_the_truth() -> None:
    """95 % contain the true value, for episodes whose lengths and errors are correlated."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        counts = rng.integers(10, 200, 40)
        means = 1 + counts / 100 + rng.normal(0, 0.5, 40)
        low, high = _estimate(means * counts, counts).interval_95
        hits += low <= 1 + np.mean(np.arange(10, 200.0) ** 2) / 104.5 / 100 <= high
    assert 920 <= hits <= 975  # 4 standard errors, and the deficit of 40 episodes


def test_many_steps_are_drawn_from_always_alike(store: EpisodeStore) -> None:
    policy, mask = (
        make_policy(store, ReturnToGo(10.0), False, False),
        np.ones(store.num_episodes, bool),
    )
    few = [offline_metrics(policy, ReturnToGo(10.0), K, store, mask, 40) for _ in range(2)]
    assert few[0] == few[1]
    assert few[0][0].steps == sum(group.steps for group in few[0][1:]) == 40
    whole = offline_metrics(policy, ReturnToGo(10.0), K, store, mask)
    assert whole[0].steps == store.num_transitions
    assert few[0][0].metrics != whole[0].metrics


LENGTHS = (40, 25, 60, 33, 12, 28)


@pytest.fixture
def run(write_d4rl: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run that held out a third of its episodes."""
    asked = {"dataset": str(write_d4rl(LENGTHS)), "held_out": 0.34, "train": {"steps": 20}}
    finished = experiment.train(configs.load(Config, TINY, asked), tmp_path / "run")
    assert finished is not None
    assert finished.offline is not None
    return tmp_path / "run"


def test_a_run_measures_itself_and_the_verb_measures_it_alike(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    written = json.loads((run / "offline.json").read_text())
    assert written["held_out_episodes"] == 2
    assert written["held_out_steps"] == written["groups"][0]["steps"]
    assert main(["evaluate", str(run), "--offline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert main(["evaluate", str(run), "--offline"]) == 0
    table = capsys.readouterr().out
    assert f"{written['groups'][0]['metrics']['mean_squared_error']['mean']:.4f}" in table


def test_other_data_are_refused(run: Path, write_d4rl: Callable[..., Path]) -> None:
    moved = write_d4rl(LENGTHS, name="moved.hdf5")
    there = offline_checkpoint(run, str(moved))
    assert (
        dataclasses.asdict(there)["groups"] == dataclasses.asdict(offline_checkpoint(run))["groups"]
    )
    other = write_d4rl((10, 20, 30), name="other.hdf5")
    with pytest.raises(UserError, match=r"not what .* was trained on") as caught:
        offline_checkpoint(run, str(other))
    assert "\n" not in str(caught.value)


def test_what_is_trained_on_belongs_to_a_run(run: Path) -> None:
    saved = configs.read_yaml(run / "config.yaml")
    others = {"held_out": 0.5, "best_fraction": 0.5, "least_return": 0.5, "windows": "whole"}
    for key, value in others.items():
        changed = configs.load(Config, saved, {key: value})
        with pytest.raises(UserError, match=f"cannot resume .* another {key}"):
            experiment.train(changed, run, resume="must")


def test_a_run_that_held_out_nothing_says_how_to(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> None:
    asked = {"dataset": str(write_d4rl()), "train": {"steps": 2}}
    finished = experiment.train(configs.load(Config, TINY, asked), tmp_path / "run")
    assert finished is not None
    assert finished.offline is None
    assert not (tmp_path / "run" / "offline.json").exists()
    with pytest.raises(UserError, match="--held_out"):
        offline_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"held_out": 1.0}, "held_out 1.0 must be"),
        ({"held_out": -0.1}, "held_out -0.1 must be"),
        ({"best_fraction": 0}, "best_fraction 0.0 must be"),
        ({"best_fraction": 1.5}, "best_fraction 1.5 must be"),
        ({"least_return": float("nan")}, "least_return nan must be"),
    ],
)
def test_parts_that_are_none_are_refused(asked: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        configs.load(Config, asked)


def test_windows_are_drawn_from_what_is_trained_on(write_d4rl: Callable[..., Path]) -> None:
    asked = {"dataset": str(write_d4rl(LENGTHS)), "held_out": 0.34, "best_fraction": 0.5}
    reporter = Lines()
    for seed in (0, 1):
        problem = prepare(configs.load(Config, TINY, asked, {"seed": seed}), reporter)
        sampler = make_sampler(problem.config, problem.store)
        episodes = (
            np.unique(np.searchsorted(problem.store.offsets, sampler.starts, side="right")) - 1
        )
        steps = int(problem.store.lengths[episodes].sum())
        line = f"data: trained on {len(episodes)} of the episodes, {steps} transitions; 2 episodes"
        assert [said for said in reporter.lines if said.startswith(line)]
        assert sampler.count == steps < sum(LENGTHS) / 2
    trained = [said for said in reporter.lines if "trained on" in said]
    assert trained[0] == trained[1]  # whatever the seed


def test_windows_may_be_whole_episodes(write_d4rl: Callable[..., Path]) -> None:
    asked = {"dataset": str(write_d4rl(LENGTHS)), "windows": "whole", "held_out": 0.34}
    long = {"policy": {"context_length": max(LENGTHS)}}
    problem = prepare(configs.load(Config, TINY, asked, long), Lines())
    sampler = make_sampler(problem.config, problem.store)
    firsts = problem.store.offsets[:-1]
    np.testing.assert_array_equal(
        sampler.starts, firsts[trained_episodes(problem.config, problem.store)]
    )
    assert sampler.count == len(LENGTHS) - 2
    short = prepare(configs.load(Config, TINY, asked), Lines())
    with pytest.raises(UserError, match=r"windows whole: an episode has .* take windows any"):
        make_sampler(short.config, short.store)


def test_all_the_data_need_no_line(write_d4rl: Callable[..., Path]) -> None:
    reporter = Lines()
    problem = prepare(configs.load(Config, TINY, {"dataset": str(write_d4rl())}), reporter)
    assert make_sampler(problem.config, problem.store).starts is None
    assert not [said for said in reporter.lines if "trained on" in said]


def test_without_an_environment_a_line_says_what_to_do(write_d4rl: Callable[..., Path]) -> None:
    dataset = str(write_d4rl(name="kitchen-partial-v0.hdf5", sizes=(60, 9)))
    rolled: dict[str, Any] = {"dataset": dataset, "evaluation": {"episodes": 2}}
    for held, said in ((0.0, "--held_out 0.1"), (0.4, "offline.json")):
        reporter = Lines()
        prepare(configs.load(Config, TINY, rolled, {"held_out": held}), reporter)
        assert [line for line in reporter.lines if "not rolled out" in line and said in line]
