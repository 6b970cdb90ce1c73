"""Tests of an update: its result does not depend on slicing or on the source of the windows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from decision_seq import config as configs
from decision_seq.policies.base import Learnt
from decision_seq.runs.experiment import make_job
from decision_seq.runs.resolve import Config, prepare
from decision_seq.sequences.device import DeviceSource, HostSource
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.training import Job, masked_mean
from decision_seq.training.config import PRECISIONS
from decision_seq.training.graph import GraphedUpdate
from decision_seq.training.parallel import distribute, repeated_blocks
from decision_seq.training.update import Update, update_seeds
from decision_seq.types import Reporter
from tests.test_train import TINY

CPU = torch.device("cpu")


@pytest.fixture
def job(write_d4rl: Callable[..., Path], tmp_path: Path) -> Callable[..., Job]:
    dataset = str(write_d4rl())

    def job(dropout: float = 0.0, **train: object) -> Job:
        backbone = {"dropout": dropout}
        asked = {"dataset": dataset, "policy": {"backbone": backbone}, "train": train}
        return make_job(prepare(configs.load(Config, TINY, asked), Reporter()), tmp_path / "run")

    return job


def make_update(job: Job, kind: type[Update] = Update) -> Update:
    dtype = PRECISIONS[job.config.precision][0]
    policy = job.build().to(dtype=dtype)
    accelerator = Accelerator(cpu=True)
    model = distribute(policy, job.config, accelerator)
    optimizer = torch.optim.AdamW(
        [weight for weight in policy.parameters() if weight.requires_grad], fused=True
    )
    resident = kind is GraphedUpdate or job.config.data_on_device
    source = (DeviceSource if resident else HostSource)(job.gatherer, CPU, dtype)
    return kind(job.config, job.seed, policy, model, optimizer, job.sampler, source, accelerator)


def trace(update: Update, steps: int = 12) -> list[float]:
    """The loss of every update."""
    return [sum(float(loss) for loss in update(step).losses.values()) for step in range(steps)]


def weights(update: Update) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in update.policy.state_dict().items()}


def test_the_shares_of_a_batch_add_up_to_its_mean() -> None:
    values, mask = torch.rand(8, 5), torch.rand(8, 5) < 0.6
    shares = [
        masked_mean(values[at : at + 3], mask[at : at + 3], mask.sum()) for at in range(0, 8, 3)
    ]
    torch.testing.assert_close(sum(shares), values[mask].mean())
    assert masked_mean(values, torch.zeros(8, 5)) == 0  # and not NaN


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_changes_nothing(job: Callable[..., Job], accumulation: int) -> None:
    """Uneven parts, with padded windows, give the same gradient, to rounding."""
    whole = trace(make_update(job(precision="fp64")))
    parts = trace(make_update(job(precision="fp64", accumulation=accumulation)))
    assert parts == pytest.approx(whole, rel=1e-12)
    assert len(set(whole)) == len(whole)


def test_a_mean_of_means_would_be_seen(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard of the test above: with its own count, a padded part would have more weight."""
    whole = trace(make_update(job(precision="fp64")))

    def each_by_itself(values: Tensor, weights: Tensor, total: Tensor) -> Tensor:
        return masked_mean(values, weights) / 2

    monkeypatch.setattr("decision_seq.training.update.masked_mean", each_by_itself)
    parts = trace(make_update(job(precision="fp64", accumulation=2)))
    assert parts != pytest.approx(whole, rel=1e-6)


def test_every_window_of_the_batch_is_in_one_part(job: Callable[..., Job]) -> None:
    made = job(accumulation=3)
    update = make_update(made)
    for step in range(20):
        ids = made.sampler.ids(step)
        found = []
        for rank in range(2):
            update.rank, update.world = rank, 2
            found.extend(update.parts(step))
        assert np.concatenate(found).tolist() == ids.tolist()
        assert [len(part) for part in found] == [1, 1, 2, 1, 1, 2]


def test_windows_gathered_on_the_device_are_the_same(gatherer: WindowGatherer) -> None:
    host, device = HostSource(gatherer, CPU), DeviceSource(gatherer, CPU)
    last = gatherer.store.num_transitions - 1
    for ids in (np.array([0, 3, 28, 36, 60, 88, last]), np.arange(last + 1)):
        mine, theirs = device.batch(ids), host.batch(ids)
        assert torch.equal(mine.mask, theirs.mask)
        assert torch.equal(mine.timesteps, theirs.timesteps)
        assert torch.equal(mine.terminated, theirs.terminated)
        assert torch.equal(mine.ids, theirs.ids)
        assert mine.terminated.any()
        for name in ("observations", "actions", "rewards", "conditions"):
            real = mine.mask
            assert torch.equal(getattr(mine, name)[real], getattr(theirs, name)[real]), name
            assert getattr(mine, name).dtype == getattr(theirs, name).dtype


@pytest.mark.parametrize(
    "how", [{"data_on_device": True}, {"checkpoint_activations": True}], ids=str
)
def test_how_it_is_computed_changes_no_bit(job: Callable[..., Job], how: dict) -> None:
    """Dropout is on; recomputed activations use the same masks."""
    plain, other = make_update(job(dropout=0.3)), make_update(job(dropout=0.3, **how))
    assert trace(plain) == trace(other)
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(other)[name], tensor), name


def test_a_gradient_may_go_unclipped(job: Callable[..., Job]) -> None:
    """train.clip null equals a limit that is never reached, and differs from one that is."""
    traces = [trace(make_update(job(clip=clip))) for clip in (None, 1e6, 1e-3)]
    assert traces[0] == traces[1] != traces[2]


def test_activations_are_really_recomputed(job: Callable[..., Job]) -> None:
    update = make_update(job(checkpoint_activations=True))
    assert len(repeated_blocks(update.policy)) == 2
    calls = []
    block = update.policy.backbone.blocks[0]
    block.attention.register_forward_hook(lambda *_: calls.append(1))
    update(0)
    assert len(calls) == 2


def test_the_recorded_update_is_the_update(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body of a CUDA graph, run eagerly, gives the same losses and weights."""
    monkeypatch.setattr(GraphedUpdate, "_record", _replayed)
    made = job(dropout=0.3)
    plain, graphed = make_update(made), make_update(made, GraphedUpdate)
    for step in range(12):
        mine, theirs = graphed(step), plain(step)
        assert float(mine.losses["action"]) == pytest.approx(float(theirs.losses["action"]), 1e-5)
        assert float(mine.gradient_norm) == pytest.approx(float(theirs.gradient_norm), 1e-4)
        assert mine.learning_rate == theirs.learning_rate
    assert float(graphed.rate) == pytest.approx(made.config.rate(11))


def _replayed(update: GraphedUpdate) -> Callable[[], None]:
    def replay() -> None:
        update.optimizer.zero_grad()
        update._body()

    return replay


def test_a_rehearsal_leaves_the_weights_as_they_were(job: Callable[..., Job]) -> None:
    """The body runs a few times before a graph is recorded; this must not affect the run."""
    update = make_update(job(), GraphedUpdate)
    for step in (None, 3):  # before the first update, and after a resume
        if step is not None:
            update.ids.copy_(torch.as_tensor(update.parts(step)[0]))
            update.rate.fill_(1e-3)
            update._body()
        before, held = weights(update), update.snapshot()
        moments = [s["exp_avg"].clone() for s in update.optimizer.state.values()]
        addresses = [tensor.data_ptr() for tensor in update.policy.state_dict().values()]
        update.rate.fill_(1e-3)
        update._body()
        update.restore(held)
        assert all(torch.equal(weights(update)[name], tensor) for name, tensor in before.items())
        found = [state["exp_avg"] for state in update.optimizer.state.values()]
        expected = moments or [torch.zeros_like(moment) for moment in found]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert [t.data_ptr() for t in update.policy.state_dict().values()] == addresses


def test_the_recorded_update_reads_no_number_on_the_host(job: Callable[..., Job]) -> None:
    """A graph cannot record a synchronization with the device; fake tensors fail on it too."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    update = make_update(job(), GraphedUpdate)
    update._body()  # the first step makes the optimiser's state
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        update._body()
        with pytest.raises(Exception, match="_local_scalar_dense"):
            float(update.losses["action"])


def test_fp16_scales_its_loss_and_skips_what_overflows(job: Callable[..., Job]) -> None:
    update = make_update(job(precision="fp16"))
    full = trace(make_update(job()))
    assert trace(update) == pytest.approx(full, rel=0.05)
    before = weights(update)
    update.scaler.load_state_dict({**update.scaler.state_dict(), "scale": 2.0**120})
    outcome = update(12)
    assert not outcome.gradient_norm.isfinite()
    assert all(torch.equal(weights(update)[name], tensor) for name, tensor in before.items())
    assert update.scaler.get_scale() == 2.0**119


def test_no_two_micro_batches_draw_alike() -> None:
    places = [(step, rank, part) for step in range(8) for rank in range(4) for part in range(3)]
    seeds = {(seed, place): update_seeds(seed, *place) for seed in (0, 1) for place in places}
    assert len({everyones for everyones, _ in seeds.values()}) == 2 * len(places)
    # The policy's generator depends only on the update, and differs from dropout's.
    owned = {(seed, place[0]): own for (seed, place), (_, own) in seeds.items()}
    assert all(own == owned[seed, place[0]] for (seed, place), (_, own) in seeds.items())
    assert len({*owned.values(), *(everyones for everyones, _ in seeds.values())}) == (
        2 * len(places) + 2 * 8
    )


def test_uneven_batches_and_weights_of_ones_own(job: Callable[..., Job]) -> None:
    """A policy with two losses and different weights, one random, still gives the global mean."""
    made = job(precision="fp64", dropout=0.0)

    def two_losses(update: Update) -> Update:
        policy = update.policy
        forward = policy.forward

        def weights(batch, rng):
            return {"action": batch.mask, "tail": batch.mask & (batch.timesteps > 9)}

        def both(batch, rng, state=None):
            values = forward(batch, rng).losses["action"]
            return Learnt({"action": values, "tail": values.square()})

        policy.weights, policy.forward = weights, both
        return update

    whole = trace(two_losses(make_update(made)))
    in_parts = replace(made, config=replace(made.config, accumulation=3))
    assert trace(two_losses(make_update(in_parts))) == pytest.approx(whole, rel=1e-12)
