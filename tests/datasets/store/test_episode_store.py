import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.column import StoreDamaged
from decision_seq.types import Episode, UserError
from tests.conftest import make_episode


def test_episodes_come_back_as_they_went_in(store: EpisodeStore) -> None:
    for index, length in enumerate((30, 7, 51, 1, 24)):
        written, read = make_episode(length, index, terminated=index % 2 == 0), store.episode(index)
        for field in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(written, field), getattr(read, field))
        assert (read.terminated, read.truncated) == (written.terminated, written.truncated)
        assert read.has_final_observation
    assert store.num_transitions == 113


def test_statistics_equal_those_of_all_rows_at_once(store: EpisodeStore) -> None:
    rows = store.columns["observations"].array.astype(np.float64)
    mean, std = store.observation_statistics
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-12)
    np.testing.assert_allclose(
        store.returns, [e.rewards.sum(dtype=np.float64) for e in store.episodes()], rtol=1e-12
    )


def touched(file: Path) -> int:
    """Bytes of a mapped file that this process has looked at."""
    maps = Path("/proc/self/smaps").read_text()
    return 1024 * sum(map(int, re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+)", maps)))


def test_opening_reads_no_column(make_store: Callable[..., EpisodeStore]) -> None:
    big = make_store([1000] * 200)
    store = EpisodeStore.open(big.path)
    (column,) = np.memmap(big.path / "observations.npy").shape
    assert touched(big.path / "observations.npy") < 100_000 < column / 50
    store.columns["observations"].array.sum()
    assert touched(big.path / "observations.npy") > column / 2


def test_a_store_cut_short_is_recognised(store: EpisodeStore) -> None:
    file = store.path / "observations.npy"
    os.truncate(file, file.stat().st_size - 100)
    with pytest.raises(StoreDamaged, match=r"observations\.npy"):
        EpisodeStore.open(store.path)


def test_a_header_that_lies_is_recognised(store: EpisodeStore) -> None:
    path = store.path / "header.json"
    header = json.loads(path.read_text())
    header["columns"]["actions"]["shape"][0] += 1
    path.write_text(json.dumps(header))
    with pytest.raises(StoreDamaged, match="its header says"):
        EpisodeStore.open(store.path)


def test_the_same_store_made_twice_at_once_stays(make_store: Callable[..., EpisodeStore]) -> None:
    """When two runs make the same store, the second must not remove it from the first."""
    first = make_store([30, 7])
    made = (first.path / "header.json").stat().st_ino
    assert make_store([30, 7]).num_transitions == 37
    assert (first.path / "header.json").stat().st_ino == made
    assert make_store([30, 8]).num_transitions == 38
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["toy"]


@pytest.mark.parametrize("key", ["columns", "source", "format"])
def test_a_header_without_a_key_is_recognised(store: EpisodeStore, key: str) -> None:
    path = store.path / "header.json"
    header = json.loads(path.read_text())
    del header[key]
    path.write_text(json.dumps(header))
    with pytest.raises(StoreDamaged, match="delete"):
        EpisodeStore.open(store.path)


def test_a_header_may_not_lead_out_of_its_folder(store: EpisodeStore) -> None:
    path = store.path / "header.json"
    header = json.loads(path.read_text())
    header["columns"]["../elsewhere"] = header["columns"]["rewards"]
    path.write_text(json.dumps(header))
    with pytest.raises(StoreDamaged, match="'columns' is malformed"):
        EpisodeStore.open(store.path)


def test_an_unfinished_writer_leaves_nothing(tmp_path, store: EpisodeStore) -> None:
    folder = tmp_path / "unfinished"
    with StoreWriter(folder / "store") as writer:
        writer.append(make_episode(10, 0))
        assert list(folder.iterdir()) == [writer.partial]
    assert list(folder.iterdir()) == []


def _damaged(change: Callable[[Episode], Episode]) -> Episode:
    return change(make_episode(10, 0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda e: replace(e, actions=e.actions[:-1]), "9 actions"),
        (lambda e: replace(e, observations=e.observations[:-2]), "9 observations"),
        (lambda e: replace(e, rewards=np.full(10, np.nan, np.float32)), "rewards hold NaN"),
        (lambda e: replace(e, actions=e.actions * np.inf), "actions hold NaN or infinity"),
        (lambda e: replace(e, rewards=e.rewards[:0]), "rewards of shape (0,)"),
        (lambda e: replace(e, actions=np.full((10, 3), "a")), "not numbers"),
        (lambda e: replace(e, actions=np.full((10, 3), None)), "not numbers"),
    ],
)
def test_a_malformed_episode_is_refused_by_name(tmp_path, change, named: str) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        writer.append(make_episode(10, 1))
        with pytest.raises(UserError) as caught:
            writer.append(_damaged(change))
    assert named in str(caught.value)
    assert "episode 1" in str(caught.value)


def test_episodes_must_agree_in_shape(tmp_path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        writer.append(make_episode(10, 1))
        with pytest.raises(UserError, match="observations of shape"):
            writer.append(make_episode(10, 1, sizes=(12, 3)))


def test_a_full_disk_is_no_fault_of_the_data(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    facts = {"env_id": None, "family": None, "max_episode_steps": None, "transitions_in": 10}
    words = r"cannot write the store .* make room there"
    with StoreWriter(tmp_path / "folder" / "store") as writer:
        writer.append(make_episode(10, 0))
        with monkeypatch.context() as disk:
            disk.setattr("decision_seq.datasets.store.writer._Appender.append", full)
            with pytest.raises(UserError, match=words):
                writer.append(make_episode(10, 1))
        monkeypatch.setattr("decision_seq.datasets.store.writer.np.save", full)
        with pytest.raises(UserError, match=words):
            writer.finish("x", {"description": "x"}, has_timeouts=True, **facts)
    assert list((tmp_path / "folder").iterdir()) == []
