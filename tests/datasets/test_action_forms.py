"""Tests of the forms in which files keep actions."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from decision_seq.datasets import open_dataset
from decision_seq.datasets.action_forms import Form, form_of

ROWS = 12
CHOICES = np.arange(ROWS) % 3
ONE_HOT = np.eye(3)[CHOICES]
ALMOST = np.where(np.arange(ROWS)[:, None] == ROWS - 1, 0.5, ONE_HOT)
REAL = np.random.default_rng(0).uniform(-1, 1, (ROWS, 2))

# Actions in the file -> in the store, and a part of the note.
FORMS: dict[str, tuple[np.ndarray, np.ndarray, str | None]] = {
    "choices": (CHOICES, CHOICES, None),
    "choices from 1": (CHOICES + 1, CHOICES + 1, None),
    "negative choices": (CHOICES - 1, CHOICES - 1, None),
    "choices of 8 bits": (CHOICES.astype(np.uint8), CHOICES, None),
    "booleans": (CHOICES == 1, (CHOICES == 1).astype(int), None),
    "a column of choices": (CHOICES[:, None], CHOICES, "one integer a step, read as choices"),
    "one-hot floats": (ONE_HOT.astype(np.float32), CHOICES, "a single 1 among zeros"),
    "one-hot integers": (ONE_HOT.astype(int), CHOICES, "a single 1 among zeros"),
    "one-hot but for the last": (ALMOST, ALMOST, None),
    "integers": (np.stack([CHOICES, CHOICES * 2], 1), np.stack([CHOICES, CHOICES * 2], 1), "rows"),
    "numbers": (REAL, REAL, None),
    "a number": (REAL[:, :1], REAL[:, :1], None),
    "flat numbers": (REAL[:, 0], REAL[:, :1], None),
}


def columns(actions: np.ndarray) -> dict[str, np.ndarray]:
    observations = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
    terminals = np.arange(ROWS) % 4 == 3
    return {
        "observations": observations,
        "actions": actions,
        "rewards": np.ones(ROWS),
        "terminals": terminals,
    }


def npz(folder: Path, actions: np.ndarray) -> Path:
    np.savez_compressed(folder / "x.npz", **columns(actions))
    return folder / "x.npz"


def hdf5(folder: Path, actions: np.ndarray) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        for name, column in columns(actions).items():
            file[name] = column
    return folder / "x.h5"


def split(actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    flat = columns(actions)
    return [{name: c[i : i + 4] for name, c in flat.items()} for i in range(0, ROWS, 4)]


def pickled(folder: Path, actions: np.ndarray) -> Path:
    (folder / "x.pkl").write_bytes(pickle.dumps(split(actions)))
    return folder / "x.pkl"


def parquet(folder: Path, actions: np.ndarray) -> Path:
    rows = [{name: c.tolist() for name, c in row.items()} for row in split(actions)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    return folder / "x.parquet"


@pytest.mark.parametrize("write", [npz, hdf5, pickled, parquet])
@pytest.mark.parametrize("name", FORMS)
def test_actions_are_stored_as_what_they_are(
    name: str, write: Callable[[Path, np.ndarray], Path], tmp_path: Path
) -> None:
    given, expected, note = FORMS[name]
    store = open_dataset(str(write(tmp_path, given)))
    actions = store.columns["actions"].array
    assert actions.dtype == (np.int64 if expected.ndim == 1 else np.float32)
    np.testing.assert_array_equal(actions, expected.astype(actions.dtype))
    assert (note is None and not store.notes) or (note and note in store.notes[0])


def test_only_what_begins_one_hot_is_read_twice() -> None:
    def never() -> list[np.ndarray]:
        raise AssertionError("all actions are read")

    assert form_of(REAL[:1], never) is Form.NUMBERS
    assert form_of(ONE_HOT[:1], lambda: [ONE_HOT, ALMOST]) is Form.NUMBERS
