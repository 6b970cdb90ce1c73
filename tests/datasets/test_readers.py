"""Tests of invariant 7 for file readers: transitions in = out, returns equal the file's.

D4RL's layouts are in `test_d4rl.py`, Minari's and the Hub's in `test_minari.py` and `test_hub.py`.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from decision_seq.datasets import open_dataset
from decision_seq.types import UserError
from tests.conftest import make_episode

Write = Callable[..., Path]


@pytest.fixture
def columns(write_d4rl: Write) -> dict[str, np.ndarray]:
    """Flat arrays of four episodes; the last one has no end."""
    with h5py.File(write_d4rl((40, 25, 60), tail=13)) as file:
        return {name: column[:] for name, column in file.items()}


def as_npz(columns: dict[str, np.ndarray], folder: Path) -> Path:
    np.savez_compressed(folder / "hopper-medium-x.npz", **columns)
    return folder / "hopper-medium-x.npz"


def as_pickle(columns: dict[str, np.ndarray], folder: Path) -> Path:
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
    parts = {name: np.split(column, ends) for name, column in columns.items()}
    rows = [{name: part[i] for name, part in parts.items()} for i in range(len(ends) + 1)]
    (folder / "hopper-medium-x.pkl").write_bytes(pickle.dumps(rows))
    return folder / "hopper-medium-x.pkl"


def returns_in_npz(path: Path) -> np.ndarray:
    with np.load(path) as file:
        ends = np.flatnonzero(file["terminals"] | file["timeouts"]) + 1
        return np.array([part.sum(dtype=float) for part in np.split(file["rewards"], ends)])


def returns_in_pickle(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        return np.array([row["rewards"].sum(dtype=float) for row in pickle.load(file)])


FORMATS = {"npz": (as_npz, returns_in_npz), "pickle": (as_pickle, returns_in_pickle)}


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_lost(name: str, columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    write, returns = FORMATS[name]
    path = write(columns, tmp_path)
    store = open_dataset(str(path))
    assert store.header["transitions_in"] == store.num_transitions == 138
    np.testing.assert_allclose(store.returns, returns(path), rtol=1e-12)
    for column in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(store.columns[column].array, columns[column])
    assert store.lengths.tolist() == [40, 25, 60, 13]
    assert store.terminated.tolist() == [True, False, True, False]
    assert store.truncated.tolist() == [False, True, False, False]
    finals = columns["next_observations"][store.offsets[1:] - 1]
    np.testing.assert_array_equal(store.columns["final_observations"].array, finals)
    assert store.header["env_id"] == "Hopper-v4"


def test_every_format_gives_the_same_store(
    columns: dict[str, np.ndarray], write_d4rl: Write, tmp_path: Path
) -> None:
    paths = [
        write_d4rl((40, 25, 60), tail=13),
        *(f[0](columns, tmp_path) for f in FORMATS.values()),
    ]
    assert len({open_dataset(str(path)).checksum for path in paths}) == 1


def test_npz_is_read_in_blocks(
    columns: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_npz(columns, tmp_path)
    whole = open_dataset(str(path)).checksum
    monkeypatch.setattr("decision_seq.datasets.d4rl.layout.BLOCK_ROWS", 7)
    os.utime(path, (1, 1))  # changed: read again
    assert open_dataset(str(path)).checksum == whole


def test_a_pickle_without_timeouts_knows_the_step_limit(tmp_path: Path) -> None:
    """The original's pickles have no `timeouts`; Hopper's 1000 steps are a time limit."""
    rows = []
    for length in (1000, 30):
        episode = make_episode(length, length)
        rows.append(
            {
                "observations": episode.observations[:-1],
                "next_observations": episode.observations[1:],
                "actions": episode.actions,
                "rewards": episode.rewards,
                "terminals": np.zeros(length, bool),
            }
        )
    (tmp_path / "hopper-medium-v2.pkl").write_bytes(pickle.dumps(rows))
    store = open_dataset(str(tmp_path / "hopper-medium-v2.pkl"))
    assert store.truncated.tolist() == [True, False]
    assert not store.terminated.any()


def test_ogbenchs_layout_is_named_and_not_read(
    columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Its files have no rewards, and a row more an episode."""
    del columns["rewards"]
    with pytest.raises(UserError, match="OGBench's files have no rewards, and one row more"):
        open_dataset(str(as_npz(columns, tmp_path)))


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_file_is_does_not_depend_on_its_name(
    name: str, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = FORMATS[name][0](columns, tmp_path)
    for other in ("without-a-suffix", "UPPER" + path.suffix.upper()):
        assert open_dataset(str(path.rename(tmp_path / other))).num_transitions == 138
        path = tmp_path / other


def test_a_store_is_made_anew_when_its_folder_changes(
    columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from decision_seq.datasets.export import convert
    from decision_seq.types import Reporter

    store = open_dataset(str(as_npz(columns, tmp_path)))
    convert(store, "parquet", tmp_path / "folder", Reporter())
    first = open_dataset(str(tmp_path / "folder"))
    stamp = (first.path / "header.json").stat().st_mtime_ns
    again = open_dataset(str(tmp_path / "folder"))
    assert (again.path / "header.json").stat().st_mtime_ns == stamp
    (file,) = (tmp_path / "folder").rglob("*.parquet")
    file.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="no Parquet file"):
        open_dataset(str(tmp_path / "folder"))
