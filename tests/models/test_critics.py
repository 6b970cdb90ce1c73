"""Tests of implicit Q-learning, against a process solved by hand, and of the data it reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.models.critics import IQL, CriticConfig, IQLConfig, NoCriticConfig
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.sequences.conditioning import label
from decision_seq.sequences.conditioning.outcome import Outcome
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.training import masked_mean
from decision_seq.types import Batch, Episode, Spec, UserError
from tests.conftest import ACTION, OBSERVATION
from tests.test_train import TINY

DISCOUNT = 0.9
SURE, LUCK = 0.4, 0.25  # the certain reward, and the frequency of the reward 1 in the data
STATES = np.eye(3, dtype=np.float32)


def write(path, episodes: list[Episode]) -> EpisodeStore:
    with StoreWriter(path) as writer:
        for episode in episodes:
            writer.append(episode)
        return writer.finish(
            "fork",
            {"kind": "test", "description": "a fork"},
            env_id=None,
            family=None,
            max_episode_steps=2,
            transitions_in=sum(map(len, episodes)),
            has_timeouts=True,
        )


@pytest.fixture
def fork(tmp_path) -> EpisodeStore:
    """State 0 leads to 1 (action above 0) or to 2; there any action ends the episode.

    In 1 a quarter of the actions is above 0.5 and has reward 1, the others 0. In 2 every action has
    reward SURE. So the data's mean is better in 2, and the best achievable return in 1.
    """
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(400):
        first, second = rng.choice([-1.0, 1.0]), rng.choice([-1.0, 1.0], p=[1 - LUCK, LUCK])
        state = 1 if first > 0 else 2
        reward = SURE if state == 2 else float(second > 0)
        episodes.append(
            Episode(
                STATES[[0, state]],
                np.array([[first], [second]], np.float32),
                np.array([0.0, 100 * reward]),  # any size
                terminated=True,
                truncated=False,
            )
        )
    return write(tmp_path / "fork", episodes)


def learnt(store: EpisodeStore, expectile: float, updates: int = 400) -> IQL:
    torch.manual_seed(0)
    conditioning = Outcome(DISCOUNT)
    conditions = label(store, conditioning)
    spec = Spec((3,), 1, "continuous", 2, 2, DISCOUNT)
    critic = IQLConfig(expectile, width=32, rate=0.1).build(spec)
    critic.fit(store, conditions)
    gatherer = WindowGatherer(store, conditions, 2, 2)
    trained = [weight for weight in critic.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, 5e-3)
    batch = gatherer.gather(store.offsets[:-1]).tensors()  # all windows
    for _ in range(updates):
        update(critic, batch, optimizer)
    return critic


def update(critic: IQL, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    losses, weights = critic.losses(batch), critic.weights(batch)
    total = torch.stack([masked_mean(losses[name], weights[name]) for name in weights]).sum()
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    critic.after_step()


@torch.no_grad()
def found(critic: IQL) -> list[float]:
    """The critic's values of the actions: in 0 towards 1 and 2, in 1 right and wrong, in 2."""
    states = torch.as_tensor(STATES[[0, 0, 1, 1, 2]])
    return critic.onward(states, torch.tensor([[1.0], [-1.0], [1.0], [-1.0], [1.0]])).tolist()


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_a_known_process_is_solved(fork: EpisodeStore, expectile: float) -> None:
    """The solution by hand: the expectile v of a reward 1 with probability p satisfies
    e p (1 - v) = (1 - e) (1 - p) v. At e = 0.5 it is the mean, and Q is that of the data."""
    lucky = (fork.columns["observations"].array[1::2, 1] == 1).nonzero()[0]
    luck = (fork.columns["rewards"].array[1::2][lucky] > 0).mean()
    value = expectile * luck / (expectile * luck + (1 - expectile) * (1 - luck))
    expected = [100 * DISCOUNT * value, 100 * DISCOUNT * SURE, 100, 0, 100 * SURE]
    assert found(learnt(fork, expectile)) == pytest.approx(expected, abs=0.5)
    better, worse = expected[:2] if expectile > 0.5 else expected[1::-1]
    assert better > worse + 10


SPEC = Spec((OBSERVATION,), ACTION, "continuous", 2, 1000, DISCOUNT)
WINDOW = 6
# A whole window; one cut by a termination, one by a time limit; the last step of an episode before
# a time limit, and one before a termination.
ROWS, COUNTED = [0, 27, 33, 88, 112], [5, 3, 3, 0, 1]


@pytest.fixture
def critic(store: EpisodeStore) -> IQL:
    torch.manual_seed(0)
    made = IQLConfig(0.8, width=16).build(SPEC)
    made.fit(store, label(store, Outcome(DISCOUNT)))
    with torch.no_grad():
        for weight in made.target_q.parameters():  # so that the target differs
            weight += 0.1 * torch.randn_like(weight)
    return made


@pytest.fixture
def batch(store: EpisodeStore) -> Batch:
    gatherer = WindowGatherer(store, label(store, Outcome(DISCOUNT)), WINDOW, 1000)
    return gatherer.gather(np.array(ROWS)).tensors()


@torch.no_grad()
def test_losses_equal_a_plain_loop(critic: IQL, batch: Batch, store: EpisodeStore) -> None:
    """The loop uses the paper's equations 5 and 6, in units of the largest return."""
    returns = label(store, Outcome(DISCOUNT)).array @ [1, DISCOUNT]
    assert critic.scale.item() == pytest.approx(abs(returns).max())
    losses, weights = critic.losses(batch), critic.weights(batch)
    mean, std = map(torch.as_tensor, store.observation_statistics)
    states = ((batch.observations - mean) / (std + 1e-6)).float()
    for row, start in enumerate(ROWS):
        end = store.offsets[store.offsets > start][0]
        terminated = store.terminated[np.flatnonzero(store.offsets == end)[0] - 1]
        for step in range(WINDOW):
            last = start + step == end - 1
            counted = start + step < end and (terminated if last else step < WINDOW - 1)
            assert {bool(counts[row, step]) for counts in weights.values()} == {bool(counted)}
            if not counted:
                continue
            pair = torch.cat([states[row, step], batch.actions[row, step]])
            goal = batch.conditions[row, step, 0] / critic.scale
            if not last:
                goal = goal + DISCOUNT * critic.v(states[row, step + 1])[0]
            error = ((critic.q(pair) - goal) ** 2).sum()
            assert losses["critic_q"][row, step].item() == pytest.approx(error.item(), rel=1e-4)
            ahead = (critic.target_q(pair).min() - critic.v(states[row, step])[0]).item()
            expected = (0.8 if ahead > 0 else 0.2) * ahead**2
            assert losses["critic_v"][row, step].item() == pytest.approx(
                expected, rel=1e-3, abs=1e-7
            )
    assert weights["critic_q"].sum(1).tolist() == COUNTED


def test_the_end_of_an_episode_is_no_time_limit(critic: IQL, batch: Batch) -> None:
    """Last steps before a time limit have no weight; before a termination they have one, and do not
    depend on the values after them."""
    limited = replace(batch, terminated=torch.zeros_like(batch.terminated))
    assert critic.weights(limited)["critic_q"].sum(1).tolist() == [5, 2, 3, 0, 0]
    beyond = torch.where(batch.mask[..., None], batch.observations, 50.0)
    other = critic.losses(replace(batch, observations=beyond))
    for name, values in critic.losses(batch).items():
        assert (values[batch.mask] == other[name][batch.mask]).all()


def test_only_an_update_moves_the_target(critic: IQL, batch: Batch) -> None:
    def targets() -> list[torch.Tensor]:
        return [weight.clone() for weight in critic.target_q.parameters()]

    before = targets()
    torch.stack([values.sum() for values in critic.losses(batch).values()]).sum().backward()
    critic.onward(batch.observations[0], batch.actions[0])
    assert all(weight.grad is None for weight in critic.target_q.parameters())
    assert all((a == b).all() for a, b in zip(before, targets(), strict=True))
    critic.after_step()
    for was, now, q in zip(before, targets(), critic.q.parameters(), strict=True):
        torch.testing.assert_close(now, 0.995 * was + 0.005 * q)


def test_nothing_is_learnt_through_what_is_aimed_at(critic: IQL, batch: Batch) -> None:
    critic.losses(batch)["critic_q"].sum().backward()
    assert all(weight.grad is None for weight in critic.v.parameters())
    critic.zero_grad()
    critic.losses(batch)["critic_v"].sum().backward()
    assert all(weight.grad is None for weight in critic.q.parameters())


@torch.no_grad()
def test_half_precision_is_not_for_values(critic: IQL, batch: Batch) -> None:
    def everything() -> list[torch.Tensor]:
        worth = critic.onward(batch.observations[0], batch.actions[0])
        return [*critic.losses(batch).values(), worth]

    plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = everything()
    for a, b in zip(plain, mixed, strict=True):
        assert b.dtype == torch.float32
        assert (a == b).all()


@torch.no_grad()
def test_what_it_tells_is_in_the_units_of_the_rewards(critic: IQL, batch: Batch) -> None:
    """It is also the lower of the two critics' values."""
    pairs = torch.cat([critic.standardize(batch.observations[0]), batch.actions[0]], -1)
    first, second = critic.q(pairs)
    worth = critic.onward(batch.observations[0], batch.actions[0])
    assert worth.tolist() == (torch.minimum(first, second) * critic.scale).tolist()
    assert critic.scale > 10


def test_a_resumed_run_is_the_same_to_the_bit(write_d4rl, tmp_path) -> None:
    """Target networks, which are outside the optimiser, are included."""
    policy = {
        "name": "tt",
        "bins": 8,
        "planner": {"context": 3, "keep": 2},
        "critic": {"name": "iql", "width": 16},
    }
    tree = {"policy": policy, "conditioning": {"name": "outcome"}, "dataset": str(write_d4rl())}

    def train(output, steps: int, resume) -> dict[str, torch.Tensor]:
        asked = {"train": {"steps": steps, "checkpoint_every": 5}}
        finished = experiment.train(configs.load(Config, TINY, tree, asked), output, resume)
        return checkpoint.read_weights(finished.checkpoint)

    whole = train(tmp_path / "whole", 10, "never")
    half = train(tmp_path / "parts", 5, "never")
    parts = train(tmp_path / "parts", 10, "auto")
    assert whole.keys() == parts.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)
    targets = [name for name in whole if name.startswith("critic.target_q")]
    assert len(targets) == 6
    assert all((whole[name] != half[name]).any() for name in targets)


def test_what_cannot_be_is_one_line() -> None:
    for wrong in ({"expectile": 1.0}, {"expectile": float("nan")}, {"width": 0}, {"rate": 0.0}):
        with pytest.raises(UserError, match=f"policy.critic.{next(iter(wrong))}"):
            IQLConfig(**wrong)


def test_by_default_there_is_none() -> None:
    assert configs.load(CriticConfig, {}) == NoCriticConfig()
    assert NoCriticConfig().build(SPEC) is None
