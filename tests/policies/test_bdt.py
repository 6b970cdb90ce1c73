"""Tests of the bi-directional transformer and of the states that its summaries cover.

Contract tests shared by all policies are in test_contract.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from decision_seq.analysis.hindsight_matching import match_checkpoint
from decision_seq.cli import main
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import Environments
from decision_seq.evaluation import open_checkpoint
from decision_seq.evaluation.rollout import rollout_returns
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import BidirectionalTransformer, BidirectionalTransformerConfig
from decision_seq.sequences.conditioning import Unconditioned, label
from decision_seq.sequences.conditioning.schedule import Schedule
from decision_seq.sequences.device import DeviceSource, HostSource
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Spec, UserError

K, Z = 6, 3
SMALL = GPTConfig(2, 2, 16, 0.0)
CPU = torch.device("cpu")


@pytest.fixture
def policy(store: EpisodeStore, spec: Spec) -> BidirectionalTransformer:
    torch.manual_seed(0)
    config = BidirectionalTransformerConfig(K, SMALL, summary=SMALL, summary_size=Z)
    made = config.build(replace(spec, condition_size=0))
    made.fit(store, label(store, Unconditioned()))
    for weight in made.summary.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


@pytest.fixture
def windows(store: EpisodeStore, policy: BidirectionalTransformer) -> WindowGatherer:
    return WindowGatherer(store, label(store, Unconditioned()), K, 1000, policy.futures)


@torch.no_grad()
def test_a_summary_is_of_the_states_to_come_and_of_no_other(
    policy: BidirectionalTransformer,
) -> None:
    """A change of state s_j changes exactly z_{j-K+1} to z_j."""
    length = 20
    states, real = torch.randn(2, length, 11), torch.ones(2, length, dtype=torch.bool)
    before = policy.summary(states, real, length)
    assert before.shape == (2, length, Z)
    for changed in range(length):
        other = states.clone()
        other[:, changed] += 1
        moved = (policy.summary(other, real, length) - before).abs().amax(2)
        summarised = torch.zeros(length, dtype=torch.bool)
        summarised[max(changed - K + 1, 0) : changed + 1] = True
        assert (moved[:, summarised] > 1e-5).all(), changed
        assert (moved[:, ~summarised] == 0).all(), changed


@torch.no_grad()
def test_an_episodes_end_is_the_end(policy: BidirectionalTransformer) -> None:
    """Padding after the end has no effect, whatever its amount; the last z is of one state."""
    states = torch.randn(1, 14, 11)
    for left in (1, 3, 9):
        real = torch.arange(14)[None] < left
        found = policy.summary(states, real, 14)[:, :left]
        noisy = torch.where(real[:, :, None], states, 100 * torch.randn_like(states))
        torch.testing.assert_close(policy.summary(noisy, real, 14)[:, :left], found)
        alone = policy.summary(states[:, :left], real[:, :left], left)
        torch.testing.assert_close(alone, found)
        # padding between the window's states and the later ones
        apart = torch.cat([states[:, :1], torch.ones(1, 4, 11), states[:, 1:]], 1)
        gap = torch.cat([real[:, :1], torch.zeros(1, 4, dtype=torch.bool), real[:, 1:]], 1)
        torch.testing.assert_close(policy.summary(apart, gap, 14)[:, :left], found)
        last = policy.summary(states[:, left - 1 : left], real[:, :1], 1)
        torch.testing.assert_close(last[:, 0], found[:, -1])


@torch.no_grad()
def test_a_summary_is_read_backwards(policy: BidirectionalTransformer) -> None:
    """Compare with the definition, step by step: from the last available state back to s_t."""
    summary, states = policy.summary, torch.randn(1, 9, 11)
    found = summary(states, torch.ones(1, 9, dtype=torch.bool), 9)
    embedded = summary.encoder(states)
    for t in range(9):
        ahead = embedded[:, t : t + K]
        tokens = summary.norm(ahead + summary.distances[: ahead.shape[1]])
        last = summary.backbone(tokens.flip(1))[0][:, -1]
        torch.testing.assert_close(found[:, t], summary.head(last), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_order_and_distance_tell(policy: BidirectionalTransformer) -> None:
    states, real = torch.randn(1, K, 11), torch.ones(1, K, dtype=torch.bool)
    found = policy.summary(states, real, 1)
    swapped = states[:, [0, 2, 1, *range(3, K)]]
    assert (policy.summary(swapped, real, 1) - found).abs().max() > 1e-4


@torch.no_grad()
def test_windows_are_summarised_as_whole_episodes(
    policy: BidirectionalTransformer, windows: WindowGatherer, store: EpisodeStore
) -> None:
    """Training and rollout agree for every window of every episode, to its last step."""
    rows = np.arange(store.num_transitions)
    batch = windows.gather(rows).tensors()
    assert batch.futures.shape == (len(rows), K - 1, 11)
    conditions = policy.hindsight(batch).conditions
    for index, episode in enumerate(store.episodes()):
        first = int(store.offsets[index])
        whole = torch.as_tensor(policy.relabel(Unconditioned(), episode))
        assert whole.shape == (len(episode), Z)
        for t in range(len(episode)):
            steps = min(K, len(episode) - t)
            assert int(batch.mask[first + t].sum()) == steps
            torch.testing.assert_close(
                conditions[first + t, :steps], whole[t : t + steps], rtol=1e-4, atol=1e-5
            )


@torch.no_grad()
def test_the_loss_is_told_by_what_follows_the_window(
    policy: BidirectionalTransformer, windows: WindowGatherer
) -> None:
    """The loss depends on the episode's later states, and on nothing after its end."""
    batch = windows.gather(np.array([0, 26, 40, 110])).tensors()
    assert batch.futures_mask.sum(1).tolist() == [K - 1, 0, K - 1, 0]
    rng = torch.Generator()
    before = policy(batch, rng).losses["action"]
    parts = [windows.gather(np.array([row])).tensors() for row in (0, 26, 40, 110)]
    apart = torch.cat([policy(part, rng).losses["action"] for part in parts])
    torch.testing.assert_close(apart, before)  # however a batch is cut
    for real in (True, False):
        chosen = (batch.futures_mask == real)[:, :, None]
        noisy = torch.where(chosen, 50 * torch.randn_like(batch.futures), batch.futures)
        moved = (policy(replace(batch, futures=noisy), rng).losses["action"] - before).abs().amax(1)
        assert (moved > 0).tolist() == [real, False, real, False]


def test_futures_gathered_on_the_device_are_the_same(windows: WindowGatherer) -> None:
    ids = np.arange(windows.store.num_transitions)
    host, device = HostSource(windows, CPU).batch(ids), DeviceSource(windows, CPU).batch(ids)
    real = host.futures_mask
    assert torch.equal(device.futures_mask, real)
    assert torch.equal(device.futures[real], host.futures[real])
    assert device.futures.dtype == host.futures.dtype
    rows = torch.as_tensor(ids)[:, None] + torch.as_tensor(windows.after)
    states = torch.tensor(windows.store.columns["observations"].array)
    assert torch.equal(host.futures[real], states[rows[real]])
    plain = WindowGatherer(windows.store, windows.conditions, K, 1000).gather(ids[:2])
    assert plain.futures is None
    assert plain.futures_mask is None


def test_a_rollout_follows_the_best_episode(
    policy: BidirectionalTransformer, store: EpisodeStore
) -> None:
    best = store.episode(int(store.returns.argmax()))
    own = policy.conditioning(Unconditioned())
    assert isinstance(own, Schedule)
    np.testing.assert_array_equal(own.labels[0], policy.relabel(Unconditioned(), best))
    given = Schedule([np.zeros((2, Z), np.float32)])
    assert policy.conditioning(given) is given
    environments = Environments("Hopper-v4", 2)
    how = (K, environments, [None, None], [3, 4])
    told = rollout_returns(policy, Unconditioned(), *how)
    np.testing.assert_array_equal(told, rollout_returns(policy, own, *how))
    assert (told[0] != rollout_returns(policy, given, *how)[0]).any()
    environments.close()


def test_a_run_from_training_to_matching(
    tmp_path: Path, write_d4rl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint holds the target, so an evaluation needs no data."""
    data, run = write_d4rl((40, 25, 60, 30, 20)), tmp_path / "run"
    overrides = {
        **{"policy.name": "bdt", "conditioning.name": "none", "policy.context_length": K},
        **{f"policy.{part}.width": 16 for part in ("backbone", "summary")},
        **{"train.steps": 3, "train.batch_size": 4, "train.accumulation": 2},
        **{"evaluation.episodes": 2, "evaluation.workers": 1, "held_out": 0.4},
    }
    arguments = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    assert main(["train", "--dataset", str(data), "--output", str(run), *arguments]) == 0
    capsys.readouterr()
    data.unlink()
    assert main(["evaluate", str(run), "--workers", "1", "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out)["targets"]
    assert scores["target"] is None
    told = json.loads((run / "scores.json").read_text())["targets"][0]
    assert scores["returns"] == told["returns"]
    write_d4rl((40, 25, 60, 30, 20))
    found = match_checkpoint(run, 2, episodes=1, workers=1)
    assert found["condition"] == "schedule"
    first, second = (target["obtained"]["returns"] for target in found["targets"])
    assert first != second
    opened = open_checkpoint(run, "cpu", workers=1)
    assert opened.loaded.policy.spec.condition_size == 16


def test_what_cannot_be_is_one_line(spec: Spec) -> None:
    config = BidirectionalTransformerConfig(K, SMALL, summary=SMALL)
    frames = replace(spec, observation_shape=(4, 40, 40), condition_size=0)
    with pytest.raises(UserError, match="vector observations"):
        config.build(frames)
    with pytest.raises(UserError, match="summary_size 0"):
        BidirectionalTransformerConfig(summary_size=0)
