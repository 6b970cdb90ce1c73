import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decision_seq.cli import main
from decision_seq.datasets.inspection import inspect
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.types import Episode
from tests.conftest import make_episode


def written(folder: Path, episodes: list[Episode], **facts: Any) -> EpisodeStore:
    with StoreWriter(folder / "store") as writer:
        for episode in episodes:
            writer.append(episode)
        header = {"env_id": "Hopper-v4", "family": "hopper", "max_episode_steps": 1000, **facts}
        total = sum(map(len, episodes))
        source = {"kind": "test", "description": "a test's data"}
        return writer.finish("toy", source, transitions_in=total, has_timeouts=True, **header)


def findings(store: EpisodeStore) -> dict[str, tuple[str, str]]:
    return {f["check"]: (f["level"], f["detail"]) for f in inspect(store)["findings"]}


def test_sound_data_have_no_warning(tmp_path: Path) -> None:
    store = written(tmp_path, [make_episode(30, i) for i in range(5)])
    assert {level for level, _ in findings(store).values()} == {"ok"}


def test_counts_are_those_of_plain_numpy(store: EpisodeStore) -> None:
    facts = inspect(store)
    rewards = store.columns["rewards"].array
    returns = np.array([rewards[a:b].sum() for a, b in zip(store.offsets, store.offsets[1:])])  # noqa: B905
    assert facts["return"]["mean"] == pytest.approx(returns.mean())
    assert facts["return_quantiles"]["0.5"] == pytest.approx(np.median(returns))
    assert facts["suggested_targets"] == pytest.approx(list(np.quantile(returns, [1, 0.9, 0.5])))
    assert sum(facts["return_histogram"]["counts"]) == store.num_episodes
    assert facts["columns"]["actions"]["min"] == pytest.approx(store.columns["actions"].array.min())
    assert facts["normalized"]["best"] == pytest.approx((returns.max() + 20.272305) / 32.54572305)
    assert facts["transitions_in"] == facts["transitions_out"] == 113


def test_the_datas_own_reference_scores_come_first(tmp_path: Path) -> None:
    store = written(tmp_path, [make_episode(30, 0)], reference_scores=[10.0, 60.0])
    assert store.reference_scores == (10.0, 60.0)
    facts = inspect(store)
    assert facts["normalized"]["mean"] == pytest.approx(2 * (facts["return"]["mean"] - 10))


def _repeat(episode: Episode) -> Episode:
    for array in (episode.observations, episode.actions, episode.rewards):
        array[10:15] = array[10]
    return episode


def _wild(episode: Episode) -> Episode:
    episode.actions[3, 1] = 1.5
    return episode


def _still(episode: Episode) -> Episode:
    episode.observations[:, 4] = 2.0
    return episode


def _endless(episode: Episode) -> Episode:
    return replace(episode, terminated=False)


def test_every_fault_is_found(tmp_path: Path) -> None:
    faults = {
        "repeated steps": ([_repeat(make_episode(30, 0))], "4 of 30"),
        "repeated episodes": ([make_episode(30, 0), make_episode(30, 0)], "1 of 2"),
        "actions in their space": ([_wild(make_episode(30, 0))], "1 of 3 dimensions leave"),
        "constant observations": ([_still(make_episode(30, 0))], "1 of 11"),
        "episodes without an end": ([_endless(make_episode(30, 0))], "1 of 1"),
        "step limit": ([make_episode(1001, 0)], "1 episodes are longer"),
    }
    for i, (check, (episodes, words)) in enumerate(faults.items()):
        level, detail = findings(written(tmp_path / str(i), episodes))[check]
        assert level != "ok", check
        assert words in detail


@pytest.mark.parametrize("column", ["observations", "actions", "rewards", "final_observations"])
def test_a_bit_that_fell_over_is_found(store: EpisodeStore, column: str) -> None:
    file = store.path / f"{column}.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert findings(EpisodeStore.open(store.path))["checksum"][0] == "warning"


def test_blocks_do_not_show(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = inspect(store)
    monkeypatch.setattr("decision_seq.datasets.inspection.BLOCK_ROWS", 7)
    assert inspect(store) == whole


def test_the_page_and_the_plot(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "returns.png"
    assert main(["data", "inspect", str(store.path), "--plot", str(plot)]) == 0
    page = capsys.readouterr().out
    for words in ("113 in, 113 out", "suggested:", "episodes by return", "NaN or infinity"):
        assert words in page
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "inspect", str(store.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 5
    assert main(["data", "inspect", str(store.path), "--plot", str(tmp_path / "x.nope")]) == 2
    assert "cannot draw" in capsys.readouterr().err
