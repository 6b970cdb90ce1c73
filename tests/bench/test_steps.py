import time

import numpy as np
from accelerate import Accelerator

from decision_seq.bench import steps
from decision_seq.bench.sampling import write_random_store
from decision_seq.bench.steps import PEER, bench_steps, loop_batch, make_entrants, steps_text
from decision_seq.datasets.store import EpisodeStore
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.recipes import recipe_trees
from decision_seq.training import TrainConfig
from decision_seq.types import Reporter


def test_the_loop_cuts_real_windows(tmp_path) -> None:
    """The peer's work is real: its windows and sums are those of the store."""
    write_random_store(tmp_path / "store", 3, Reporter())
    store = EpisodeStore.open(tmp_path / "store")
    rng = np.random.default_rng(0)
    statistics = (np.zeros(11), np.ones(11))
    states, actions, returns, timesteps, mask = loop_batch(list(store.episodes()), statistics, rng)
    assert states.shape == (64, 20, 11)
    assert 0 < (mask == 0).sum() < mask.size / 5
    observations = store.columns["observations"].array
    for row in range(64):
        real = mask[row].astype(bool)
        assert real[-1]
        at = np.flatnonzero((observations == states[row, -1]).all(1)).item()
        start = at - real.sum() + 1
        np.testing.assert_array_equal(states[row][real], observations[start : at + 1])
        np.testing.assert_array_equal(
            actions[row][real], store.columns["actions"].array[start : at + 1]
        )
        assert timesteps[row, -1] == at % 1000
        end = (at // 1000 + 1) * 1000
        expected = store.columns["rewards"].array[at:end].sum() / 1000
        assert returns[row, -1, 0] == np.float32(expected)


def test_every_side_is_measured_with_its_share_of_data(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "EPISODES", 3)
    write_random_store(tmp_path / "store", 3, Reporter())
    entrants = make_entrants(EpisodeStore.open(tmp_path / "store"), Accelerator(cpu=True))
    assert list(entrants) == [PEER, "decision_seq fp32"]
    for step in entrants.values():
        started = time.perf_counter()
        waited = step(0)
        assert 0 < waited < time.perf_counter() - started
    result = bench_steps(rounds=1, threads=None)
    assert result["rows"][0]["speed"] == 1.0
    assert all(0 < row["data_share"] < 1 for row in result["rows"])
    assert all(name in steps_text(result) for name in entrants)


def test_our_side_learns(tmp_path) -> None:
    write_random_store(tmp_path / "store", 3, Reporter())
    store = EpisodeStore.open(tmp_path / "store")
    config = TrainConfig(warmup_steps=1, learning_rate=1e-3)
    policy = DecisionTransformerConfig(5, GPTConfig(2, 1, 16, dropout=0.0))
    update = steps.make_update(store, Accelerator(cpu=True), config, policy)
    losses = [update(number).losses["action"].item() for number in range(20)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_recipe_for_atari_is_fed_by_frames(monkeypatch) -> None:
    tree = {
        "policy": {**recipe_trees("atari/dt")[0]["policy"], "context_length": 3},
        "train": {"batch_size": 4},
    }
    monkeypatch.setattr(steps, "recipe_trees", lambda name: [tree])
    result = steps.bench_frame_steps(rounds=1, threads=None, episodes=1)
    assert [row["name"] for row in result["rows"]] == ["decision_seq fp32", "decision_seq bf16"]
    assert all(0 < row["data_share"] < 1 for row in result["rows"])
    assert "batch 4, K 3" in steps_text(result)
