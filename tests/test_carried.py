"""Tests of state that is carried over an episode: an LSTM trained on segments."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from decision_seq import checkpoint
from decision_seq.datasets.store import EpisodeStore
from decision_seq.models.backbones import LSTMConfig
from decision_seq.policies import DecisionTransformer, DecisionTransformerConfig
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.windows import Pool, Segments, WindowGatherer
from decision_seq.training import masked_mean
from decision_seq.types import Batch, Spec
from tests.ranks import Started
from tests.test_train import TINY, command, losses, run_here

SEGMENT, EPISODE = 20, 300
RNG = torch.Generator()


def make_policy(spec: Spec, length: int, burn_in: int = 0) -> DecisionTransformer:
    """The same weights whatever the window."""
    torch.manual_seed(0)
    config = DecisionTransformerConfig(length, LSTMConfig(2, 32), burn_in=burn_in)
    policy = config.build(spec).eval()
    assert isinstance(policy, DecisionTransformer)
    return policy


def batch_of(store: EpisodeStore, ids: np.ndarray, length: int) -> Batch:
    labels = label(store, ReturnToGo(10.0))
    return WindowGatherer(store, labels, length, 1000).gather(ids).tensors()


def whole_loss(policy: DecisionTransformer, batch: Batch) -> Tensor:
    return masked_mean(policy(batch, RNG).losses["action"], batch.mask)


@pytest.mark.parametrize("burn_in", [0, 5])
def test_segments_of_an_episode_have_the_loss_of_the_whole(
    burn_in: int, make_store: Callable[..., EpisodeStore], spec: Spec
) -> None:
    """Carried over segments, nothing is forgotten; the gradient is cut between them."""
    store = make_store((EPISODE,))
    whole, parts = make_policy(spec, EPISODE), make_policy(spec, SEGMENT, burn_in)
    expected = whole_loss(whole, batch_of(store, np.zeros(1, np.int64), EPISODE))
    expected.backward()
    sampler = Segments(Pool(store.offsets, SEGMENT, overlap=burn_in), 0, 1)
    assert sampler.steps_a_pass == -(-(EPISODE - burn_in) // (SEGMENT - burn_in))
    state, found = None, []
    for step in range(sampler.steps_a_pass):
        batch = batch_of(store, sampler.ids(step), SEGMENT)
        weights = parts.weights(batch, RNG)["action"]
        learnt = parts(batch, RNG, state)
        found.append((learnt.losses["action"] * weights).sum() / EPISODE)
        state = {name: value.detach() for name, value in learnt.state.items()}
    total = torch.stack(found).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    total.backward()
    pairs = zip(whole.parameters(), parts.parameters(), strict=True)
    gradients = [(a.grad, b.grad) for a, b in pairs if a.grad is not None]
    recurrent = whole.backbone.cells.weight_hh_l0.grad, parts.backbone.cells.weight_hh_l0.grad
    assert not torch.allclose(*recurrent, rtol=1e-3)  # truncated
    assert all(b.isfinite().all() for _, b in gradients)


def test_the_first_segments_gradient_is_not_truncated(
    make_store: Callable[..., EpisodeStore], spec: Spec
) -> None:
    """A segment that begins an episode learns from its burn-in too, one that does not does not."""
    store = make_store((EPISODE,))
    gradients = []
    for burn_in in (0, 5):
        policy = make_policy(spec, SEGMENT, burn_in)
        batch = batch_of(store, np.zeros(1, np.int64), SEGMENT)
        weights = policy.weights(batch, RNG)["action"]
        masked_mean(policy(batch, RNG).losses["action"], weights).backward()
        gradients.append(policy.backbone.cells.weight_hh_l0.grad)
    torch.testing.assert_close(*gradients)
    policy = make_policy(spec, SEGMENT, 5)
    batch = batch_of(store, np.array([100]), SEGMENT)
    observations = batch.observations.requires_grad_()
    weights = policy.weights(batch, RNG)["action"]
    assert weights.tolist() == [[False] * 5 + [True] * 15]
    masked_mean(policy(batch, RNG).losses["action"], weights).backward()
    moved = observations.grad[0].abs().sum(1) > 0
    assert moved.tolist() == [False] * 5 + [True] * 15


@torch.no_grad()
def test_state_never_crosses_an_episode(store: EpisodeStore, spec: Spec) -> None:
    """A row that begins an episode computes the same whatever its row held, NaN included."""
    policy = make_policy(spec, 8)
    starts = store.offsets[:-1]
    batch = batch_of(store, starts, 8)
    fresh = policy(batch, RNG)
    state = {name: torch.full_like(value, torch.nan) for name, value in fresh.state.items()}
    again = policy(batch, RNG, state)
    assert torch.equal(again.losses["action"], fresh.losses["action"])
    for name, value in again.state.items():
        assert torch.equal(value, fresh.state[name])
    middle = batch_of(store, starts[:1] + 3, 8)
    carried = {name: value[:1] for name, value in fresh.state.items()}
    with_state = policy(middle, RNG, carried).losses["action"]
    assert not torch.allclose(with_state, policy(middle, RNG).losses["action"])


@pytest.fixture
def arguments(
    write_d4rl: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[list[str], Path]]:
    """The command of a small run of an LSTM on segments, and its folder."""
    config = tmp_path / "tiny.yaml"
    policy = {"context_length": 6, "burn_in": 2, "backbone": {"name": "lstm", "width": 16}}
    train = {**TINY["train"], "steps": 30, "checkpoint_every": 7, "trackers": []}
    tree = {**TINY, "policy": policy, "train": train, "windows": "segments"}
    config.write_text(yaml.safe_dump(tree))
    dataset = write_d4rl()

    def arguments(name: str, *more: str) -> tuple[list[str], Path]:
        output = tmp_path / name
        return command(output, dataset, config, *more), output

    return arguments


def test_a_killed_run_resumes_with_its_state(
    arguments: Callable[..., tuple[list[str], Path]],
) -> None:
    """To the bit: losses, weights and the carried state."""
    whole, alone = arguments("whole")
    run_here(whole)
    cut, output = arguments("cut")
    process = Started(cut[3:], output.with_name("said"))
    metrics = output / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") >= 17:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed, _ = arguments("cut", "--resume", "auto")
    run_here(resumed)
    assert losses(output) == losses(alone)
    last = Path("checkpoints") / "step-00000030"
    for name in (checkpoint.WEIGHTS, checkpoint.CARRIED_ROWS, checkpoint.MOMENTS):
        assert (output / last / name).read_bytes() == (alone / last / name).read_bytes()
    carried = checkpoint.read_carried(alone / last)
    assert {name: len(value) for name, value in carried.items()} == {"hidden": 8, "cell": 8}


def test_a_run_without_state_saves_none(
    arguments: Callable[..., tuple[list[str], Path]],
) -> None:
    """Random windows begin from the initial state, so nothing is carried or saved."""
    asked, output = arguments("random", "--windows", "any", "--train.steps", "3")
    run_here(asked)
    saved = output / "checkpoints" / "step-00000003"
    assert checkpoint.read_carried(saved) == {}
    assert not (saved / checkpoint.CARRIED_ROWS).exists()
