"""Tests of rollouts: invariant 4, and known faults, each injected once and caught."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import Environments, make
from decision_seq.evaluation.acting import slides
from decision_seq.evaluation.context import Context, StepBuffer
from decision_seq.evaluation.episode_rows import SLOTS, EpisodeRows
from decision_seq.evaluation.rollout import (
    EpisodeRequest,
    EpisodeResult,
    Observer,
    queue_up,
    rollout_episodes,
    rollout_returns,
)
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Batch, Spec
from tests.conftest import lived

K = 6
CONDITIONING = ReturnToGo(20.0)  # small, so that a reward that is not subtracted shows
# More targets than environment slots, so that some slots are used twice.
TARGETS = np.linspace(50.0, -50.0, SLOTS + 4)
SEEDS = list(range(3, SLOTS + 7))

Rollout = Callable[[Policy, Sequence[float], Sequence[int]], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(params=[1, 2], ids=["carries", "is shown all"])
def policy(request: pytest.FixtureRequest, spec: Spec) -> Policy:
    torch.manual_seed(0)
    made = DecisionTransformerConfig(K, GPTConfig(width=32, heads=request.param)).build(spec)
    assert slides(made, K) == (request.param == 1)
    # So that the condition tells, and episodes end at different times.
    torch.nn.init.normal_(made.actions.head.weight, std=0.2)
    torch.nn.init.normal_(made.embed_condition.weight, std=4.0)
    return made.eval()


@torch.no_grad()
def test_a_context_is_a_training_window(policy: Policy, store: EpisodeStore) -> None:
    """Invariant 4: an episode fed step by step gives the actions of the training windows."""
    gatherer = WindowGatherer(store, label(store, CONDITIONING), K, 1000)
    index = 2  # 51 steps, so the window slides
    episode, first = store.episode(index), int(store.offsets[index])
    labels = np.asarray(gatherer.conditions.array[first : first + len(episode)])
    for t, context in enumerate(lived(policy.spec, K, episode, labels)):
        start = max(0, t - K + 1)
        trained = gatherer.gather(np.array([first + start])).tensors()
        length = t - start + 1
        assert context.lengths.tolist() == [1, length]
        assert context.terminated is None
        for name in ("observations", "conditions", "timesteps"):
            expected = getattr(trained, name)[0, :length]
            torch.testing.assert_close(getattr(context, name)[1, :length], expected)
        for name in ("actions", "rewards"):
            expected = getattr(trained, name)[0, : length - 1]
            torch.testing.assert_close(getattr(context, name)[1, : length - 1], expected)
        hidden, _ = policy.backbone(policy.tokens(policy.encoded(trained)), slice(1, None, 3))
        expected = policy.actions.predict(hidden[0, length - 1])
        torch.testing.assert_close(policy.act(context)[0][1], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def alone(policy: Policy, target: float, seed: int) -> tuple[float, int]:
    """Reference rollout: one environment, whole histories in lists, the training forward."""
    env = make("Hopper-v4")
    observation, _ = env.reset(seed=seed)
    observations, actions, wanted = [observation], [], [target / 20.0]
    total, ended = 0.0, False
    while not ended:
        start = max(0, len(observations) - K)
        steps = len(observations) - start
        batch = Batch(
            np.array(observations[start:])[None],
            np.array([*actions[start:], np.zeros(3)])[None],
            np.zeros((1, steps)),
            np.array(wanted[start:])[None, :, None],
            np.arange(start, len(observations))[None],
            np.ones((1, steps), bool),
        ).tensors()
        hidden, _ = policy.backbone(policy.tokens(policy.encoded(batch)), slice(1, None, 3))
        actions.append(policy.actions.predict(hidden[0, -1]).numpy())
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        wanted.append(wanted[-1] - float(reward) / 20.0)
        total, ended = total + float(reward), terminated or truncated
    return total, len(actions)


def together(
    policy: Policy, targets: Sequence[float], seeds: Sequence[int], environments: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    envs = Environments("Hopper-v4", environments)
    return rollout_returns(policy, CONDITIONING, K, envs, targets, seeds)


PLAIN: dict[int, list[tuple[float, int]]] = {}


def check(evaluator: Rollout, policy: Policy) -> None:
    """Check that the episodes equal those of the reference, one for each target and seed."""
    returns, lengths = evaluator(policy, TARGETS, SEEDS)
    heads = policy.backbone.heads
    if heads not in PLAIN:  # the policies of this file differ in nothing else
        PLAIN[heads] = [alone(policy, t, s) for t, s in zip(TARGETS, SEEDS, strict=True)]
    expected = PLAIN[heads]
    assert lengths.tolist() == [steps for _, steps in expected]
    np.testing.assert_allclose(returns, [total for total, _ in expected], rtol=1e-4)


def test_returns_are_the_environments_own(policy: Policy) -> None:
    """Invariant 7: one episode per seed, run to its own end, with all rewards counted."""
    _, lengths = together(policy, TARGETS, SEEDS)
    assert lengths.min() > K  # the window has slid
    assert len(set(lengths)) > 4  # short and long episodes
    check(together, policy)


@torch.inference_mode()
@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_what_an_episode_leaves_behind_bears_on_no_other(policy: Policy, spoilt: float) -> None:
    """This holds even where a simulator has diverged."""
    acted = []
    for first in (spoilt, 1.0):
        episodes = EpisodeRows(policy, CONDITIONING, K, SLOTS)
        buffer = episodes.buffer
        for step in range(K + 3):
            buffer.observations[:] = first if step < K // 2 else step
            buffer.fresh[:] = step in (0, K // 2)
            actions = episodes.act(np.ones(SLOTS, bool)).copy()
            assert step >= K // 2 or first == 1 or np.isnan(actions).all()
        acted.append(actions)
    np.testing.assert_array_equal(acted[0], acted[1])


def first_to_end(policy: Policy, targets: Sequence[float], seeds: Sequence[int]):
    """Faulty evaluator that counts the first episodes finished in a vector environment."""
    returns, lengths = together(policy, [*targets, *targets], [*seeds, *(s + 50 for s in seeds)])
    soonest = np.sort(np.argsort(lengths, kind="stable")[: len(seeds)])
    return returns[soonest], lengths[soonest]


def keeps_the_former_context(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Context.advance

    def advance(self: Context, actions: torch.Tensor, numbers: torch.Tensor, *rest: Any) -> None:
        fresh = numbers[:, StepBuffer.FRESH] * (self.lengths == 0)
        honest(self, actions, torch.cat([fresh[:, None], numbers[:, 1:]], 1), *rest)

    monkeypatch.setattr(Context, "advance", advance)


def forgets_the_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReturnToGo, "advance", lambda self, conditions, *rest: conditions)


def subtracts_it_twice_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ReturnToGo.advance

    def advance(self, conditions, targets, transition, timesteps):
        advanced = honest(self, conditions, targets, transition, timesteps)
        again = honest(self, advanced, targets, transition, timesteps)
        return np.where((timesteps == 0)[:, None], again, advanced)

    monkeypatch.setattr(ReturnToGo, "advance", advance)


def leaks_across_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Context.batch

    def batch(self: Context, rows: slice = slice(None)) -> Batch:
        made = honest(self, rows)
        made.observations[:, 0] = made.observations[:, 0].mean(0)  # of the oldest step only
        return made

    monkeypatch.setattr(Context, "batch", batch)


def shows_the_wrong_time(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Context.batch

    def batch(self: Context, rows: slice = slice(None)) -> Batch:
        made = honest(self, rows)
        made.timesteps.clamp_(max=K - 1)
        return made

    monkeypatch.setattr(Context, "batch", batch)


def stops_when_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Environments.step

    def step(self: Environments, rows: np.ndarray, actions: np.ndarray):
        result = honest(self, rows, actions)
        if not self.running[rows].all():
            self.running[rows] = False
        return result

    monkeypatch.setattr(Environments, "step", step)


FAULTS = [
    keeps_the_former_context,
    forgets_the_reward,
    subtracts_it_twice_at_the_start,
    leaks_across_rows,
    shows_the_wrong_time,
    stops_when_one_ends,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_evaluator_is_caught(
    fault: Callable[[pytest.MonkeyPatch], None], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check(together, policy)


def test_an_evaluator_that_counts_the_first_to_end_is_caught(policy: Policy) -> None:
    with pytest.raises(AssertionError):
        check(first_to_end, policy)


TOGETHER: dict[int, tuple[np.ndarray, np.ndarray]] = {}


@pytest.mark.parametrize("environments", [1, 7, 64])
def test_returns_do_not_depend_on_how_many_run_at_once(policy: Policy, environments: int) -> None:
    """To the bit: a linear layer's last bits depend on its rows, so tables have a fixed shape."""
    count = 2 * SLOTS + 1
    targets, seeds = np.linspace(50.0, -50.0, count), list(range(count))
    returns, lengths = together(policy, targets, seeds, environments)
    heads = policy.backbone.heads
    if heads not in TOGETHER:
        TOGETHER[heads] = together(policy, targets, seeds, SLOTS)
    expected = TOGETHER[heads]
    assert returns.tobytes() == expected[0].tobytes()
    assert lengths.tolist() == expected[1].tolist()
    assert len(set(returns)) == count


def test_the_number_of_threads_does_not_show(policy: Policy) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = together(policy, TARGETS, SEEDS)
        torch.set_num_threads(2)
        assert together(policy, TARGETS, SEEDS)[0].tobytes() == one[0].tobytes()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_drawn_actions_are_the_episodes_own() -> None:
    """With sampled actions, too, an episode depends on its seed and not on its policy batch."""
    torch.manual_seed(0)
    spec = Spec((4,), 2, "discrete", 1, 500)
    policy = DecisionTransformerConfig(K, GPTConfig(width=32)).build(spec)
    count = SLOTS + 3
    targets, seeds = np.full(count, 9.0), list(range(count))

    def returns(environments: int, temperature: float) -> list[float]:
        envs = Environments("CartPole-v1", environments)
        shared = (policy, CONDITIONING, K, envs, targets, seeds)
        return rollout_returns(*shared, temperature=temperature)[0].tolist()

    drawn = returns(SLOTS, 1.0)
    assert returns(1, 1.0) == returns(5, 1.0) == returns(64, 1.0) == drawn
    assert returns(SLOTS, 0.0) != drawn
    assert len(set(drawn)) > 4
    seeds = [seed + 100 for seed in seeds]
    assert returns(SLOTS, 1.0) != drawn


def test_actions_drawn_of_a_gaussian_are_the_episodes_own(spec: Spec) -> None:
    torch.manual_seed(0)
    policy = DecisionTransformerConfig(K, GPTConfig(width=32), head="stochastic").build(spec)
    count = SLOTS + 3

    def returns(environments: int, temperature: float, first: int = 0) -> list[float]:
        envs, seeds = Environments("Hopper-v4", environments), range(first, first + count)
        shared = (policy, CONDITIONING, K, envs, [50.0] * count, list(seeds))
        return rollout_returns(*shared, temperature=temperature)[0].tolist()

    drawn = returns(SLOTS, 1.0)
    assert returns(1, 1.0) == returns(5, 1.0) == drawn
    assert returns(SLOTS, 1.0, first=1)[:-1] == drawn[1:]
    mean = returns(SLOTS, 0.0)
    assert all(a != b for a, b in zip(mean, drawn, strict=True))


def test_low_precision_is_another_policy_but_near(policy: Policy) -> None:
    requests = [EpisodeRequest(0, 50.0, 3)]

    def first_length(precision: torch.dtype) -> tuple[float, int]:
        envs = Environments("Hopper-v4", 1)
        (found,) = rollout_episodes(
            policy, CONDITIONING, K, envs, queue_up(policy, requests), precision
        )
        return found.total, found.length

    exact, low = first_length(torch.float32), first_length(torch.bfloat16)
    assert low != exact
    assert low[0] == pytest.approx(exact[0], rel=0.3)


def test_an_observer_sees_every_step_and_changes_none(policy: Policy) -> None:
    """Its traces sum to the returns and begin with the environment's first values."""
    returns, lengths = together(policy, TARGETS, SEEDS)
    requests = [
        EpisodeRequest(i, t, s) for i, (t, s) in enumerate(zip(TARGETS, SEEDS, strict=True))
    ]

    def observed(observer: Observer | None) -> list[EpisodeResult]:
        environments = Environments("Hopper-v4", 3)
        claim = queue_up(policy, requests)
        found = list(
            rollout_episodes(policy, CONDITIONING, K, environments, claim, observer=observer)
        )
        environments.close()
        found.sort(key=lambda obtained: obtained.index)
        assert [obtained.total for obtained in found] == returns.tolist()
        return found

    rewards = observed(lambda step: step.rewards)
    assert [len(obtained.trace) for obtained in rewards] == lengths.tolist()
    np.testing.assert_allclose([obtained.trace.sum() for obtained in rewards], returns, rtol=1e-9)
    velocities = observed(lambda step: step.observations[:, 5])
    env = make("Hopper-v4")
    begins = [np.float32(env.reset(seed=seed)[0][5]) for seed in SEEDS]
    assert [obtained.trace[0] for obtained in velocities] == begins
    assert all(obtained.trace is None for obtained in observed(None))
