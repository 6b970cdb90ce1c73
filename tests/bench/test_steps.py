import numpy as np
import torch
from accelerate import Accelerator

from decision_seq.bench.data import write_random_store
from decision_seq.bench.steps import PEER, bench_steps, loop_batch, make_entrants, steps_text
from decision_seq.data.store import EpisodeStore
from decision_seq.types import Reporter


def test_the_loop_cuts_real_windows(tmp_path) -> None:
    """The peer must be given honest work: its windows are those of the store, its sums too."""
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


def test_both_sides_learn(tmp_path) -> None:
    write_random_store(tmp_path / "store", 3, Reporter())
    entrants = make_entrants(EpisodeStore.open(tmp_path / "store"), Accelerator(cpu=True))
    assert list(entrants) == [PEER, "decision_seq fp32"]
    ours = entrants["decision_seq fp32"]
    first = ours(0).losses["action"]
    assert isinstance(first, torch.Tensor)
    result = bench_steps(rounds=1, threads=None)
    assert result["rows"][0]["speed"] == 1.0
    assert all(name in steps_text(result) for name in entrants)
