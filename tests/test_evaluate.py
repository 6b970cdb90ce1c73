"""Invariant 4, and what an honest evaluation must not do."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from decision_seq.data.conditioning import ReturnToGo, label
from decision_seq.data.sampler import WindowGatherer
from decision_seq.data.store import EpisodeStore
from decision_seq.envs import Environments, make
from decision_seq.evaluate import Evaluation, EvaluationConfig, score
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.rollout import Context, rollout
from decision_seq.statistics import mean_interval
from decision_seq.types import Batch, Spec, TargetScore, Transition, UserError

K = 8
HOPPER = (-20.272305, 3234.3)  # reference scores
CONDITIONING = ReturnToGo(100.0)


@pytest.fixture
def policy(store: EpisodeStore, spec: Spec) -> Policy:
    torch.manual_seed(0)
    made = DecisionTransformerConfig(K, GPTConfig(width=32)).build(spec)
    made.fit(store)
    return made.eval()


class Recorder(Policy):
    """Acts by a fixed linear rule on the newest observation and keeps every batch it was shown."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(11, 3, generator=generator) * 0.3)
        self.seen: list[Batch] = []

    def act(self, batch: Batch, state=None, rng=None) -> tuple[Tensor, None]:
        self.seen.append(batch)
        newest = batch.observations[torch.arange(len(batch.lengths)), batch.lengths - 1]
        return torch.tanh(newest @ self.weight), None


@torch.no_grad()
def test_a_context_is_a_training_window(policy: Policy, store: EpisodeStore) -> None:
    """Invariant 4: an episode fed step by step gives the actions of the training windows."""
    gatherer = WindowGatherer(store, label(store, CONDITIONING), K, 1000)
    index = 2  # 51 steps, so that the window slides
    episode, first = store.episode(index), int(store.offsets[index])
    context = Context(1, K, policy.spec)
    row = np.array([0])
    target = np.array([store.returns[index]])
    conditions = CONDITIONING.prompt(target)
    context.start(episode.observations[:1], conditions)
    for t in range(len(episode)):
        lived = context.batch(row).tensors()
        start = max(0, t - K + 1)
        trained = gatherer.gather(np.array([first + start])).tensors()
        length = t - start + 1
        assert lived.lengths.item() == length
        for name in ("observations", "conditions", "timesteps"):
            torch.testing.assert_close(
                getattr(lived, name)[:, :length],
                getattr(trained, name)[:, :length],
                rtol=1e-5,
                atol=1e-5,
            )
        torch.testing.assert_close(lived.actions[:, : length - 1], trained.actions[:, : length - 1])
        hidden = policy.backbone(policy._tokens(trained), slice(1, None, 3))
        expected = policy.actions.predict(hidden[:, length - 1])
        torch.testing.assert_close(policy.act(lived)[0], expected, rtol=1e-4, atol=1e-5)
        following = episode.observations[t + 1 : t + 2]
        step = Transition(
            episode.observations[t : t + 1],
            episode.actions[t : t + 1],
            episode.rewards[t : t + 1],
            following,
        )
        newest, timesteps = context.newest(row)
        conditions = CONDITIONING.advance(newest, target, step, timesteps)
        context.append(row, step.actions, step.rewards, following, conditions)


def alone(spec: Spec, seed: int, weight_seed: int = 0) -> tuple[float, int]:
    """Independent of `rollout`: one environment, a plain loop, the environment's own rewards."""
    policy = Recorder(spec, weight_seed)
    env = make("Hopper-v4")
    observation, _ = env.reset(seed=seed)
    total, steps, ended = 0.0, 0, False
    while not ended:
        action = np.tanh(observation.astype(np.float32) @ policy.weight.detach().numpy())
        observation, reward, terminated, truncated, _ = env.step(action)
        total, steps, ended = total + float(reward), steps + 1, terminated or truncated
    return total, steps


def test_returns_are_the_environments_own(spec: Spec) -> None:
    """Invariant 7: exactly one episode a seed, run to its own end, all rewards counted."""
    seeds = [3, 4, 5, 6]
    returns, lengths = rollout(
        Recorder(spec), CONDITIONING, K, Environments("Hopper-v4", 4), np.full(4, 200.0), seeds
    )
    expected = [alone(spec, seed) for seed in seeds]
    np.testing.assert_allclose(returns, [total for total, _ in expected], rtol=1e-4)
    assert lengths.tolist() == [steps for _, steps in expected]
    assert len(set(lengths)) > 1  # short and long episodes alike


class Witness(ReturnToGo):
    """Keeps what it was told."""

    def advance(self, conditions, targets, transition, timesteps):
        told.append((targets, transition, timesteps))
        return super().advance(conditions, targets, transition, timesteps)


told: list[tuple[np.ndarray, Transition, np.ndarray]] = []


def test_the_context_shows_what_happened(spec: Spec) -> None:
    """Timesteps count, past actions are those taken, the reward is subtracted, rows do not mix."""
    told.clear()
    policy = Recorder(spec)
    targets, seeds = np.array([100.0, 300.0]), [3, 9]
    envs = Environments("Hopper-v4", 2)
    _, lengths = rollout(policy, Witness(100.0), K, envs, targets, seeds)
    assert lengths[0] != lengths[1]
    assert len(policy.seen) == len(told) == max(lengths)
    # The plain loop's products are rounded otherwise, and the simulator amplifies that: 1e-3.
    weight = policy.weight.detach().numpy()
    for row, (target, seed) in enumerate(zip(targets, seeds, strict=True)):
        env = make("Hopper-v4")
        observation, _ = env.reset(seed=seed)
        spent, taken = 0.0, []
        for t in range(lengths[row]):
            batch = policy.seen[t]
            at = row if len(batch.mask) == 2 else 0
            length = min(t + 1, K)
            newest = length - 1
            assert batch.lengths[at] == length
            assert batch.timesteps[at, :length].tolist() == list(range(t - newest, t + 1))
            assert batch.conditions[at, newest, 0] == pytest.approx(
                (target - spent) / 100.0, abs=1e-3
            )
            np.testing.assert_allclose(batch.observations[at, newest], observation, atol=1e-3)
            if newest:
                np.testing.assert_allclose(batch.actions[at, :newest], taken[-newest:], atol=1e-3)
            action = np.tanh(observation.astype(np.float32) @ weight)
            _, transition, timesteps = told[t]
            np.testing.assert_allclose(transition.observations[at], observation, atol=1e-3)
            np.testing.assert_allclose(transition.actions[at], action, atol=1e-3)
            observation, reward, *_ = env.step(action)
            np.testing.assert_allclose(transition.next_observations[at], observation, atol=1e-3)
            assert (told[t][0][at], timesteps[at]) == (target, t)
            assert transition.rewards[at] == pytest.approx(reward, abs=1e-3)
            taken.append(action)
            spent += float(reward)


def scored(
    policy: Policy, targets: tuple[float, ...], episodes: int, seed: int
) -> tuple[list[TargetScore], float]:
    evaluation = Evaluation(CONDITIONING, K, "Hopper-v4", targets, episodes, seed, HOPPER)
    return evaluation.scores([evaluation.roll(policy)])


@pytest.mark.parametrize("world", [2, 3, 7])
def test_scores_do_not_depend_on_the_number_of_ranks(
    policy: Policy, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear layer's last bits depend on its rows: the waves are the same for every launch."""
    monkeypatch.setattr("decision_seq.evaluate.WAVE", 3)
    evaluation = Evaluation(CONDITIONING, K, "Hopper-v4", (300.0, 100.0), 5, 3, HOPPER)
    parts = [json.loads(json.dumps(evaluation.roll(policy, r, world))) for r in range(world)]
    together, _ = evaluation.scores(parts)
    alone, _ = evaluation.scores([evaluation.roll(policy)])
    assert together == alone
    assert len({value for target in alone for value in target.returns}) == 10


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
        Evaluation(CONDITIONING, K, "HalfCheetah-v4", (1.0,), 1, 0).roll(policy)


@pytest.mark.parametrize("bad", [{"episodes": -1}, {"targets": (float("inf"),)}, {"seed": -3}])
def test_a_bad_protocol_is_refused(bad: dict) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        EvaluationConfig(**bad)
