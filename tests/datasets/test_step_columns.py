"""Tests of the names of columns, and of the ends that flags mean, in every reader."""

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from decision_seq.datasets import Request, open_dataset, step_columns
from decision_seq.datasets.inspection import inspect
from decision_seq.types import UserError
from tests.conftest import Lines

EPISODES, STEPS = 20, 10
LAST = np.tile(np.arange(STEPS) == STEPS - 1, EPISODES)
FIRST = np.tile(np.arange(STEPS) == 0, EPISODES)
ODD = np.repeat(np.arange(EPISODES) % 2 == 1, STEPS)
NEVER = np.zeros(EPISODES * STEPS, bool)
Columns = dict[str, np.ndarray]


def data(**names: str) -> Columns:
    """Columns of 20 episodes of 10 steps, each of return 10."""
    rng = np.random.default_rng(1)
    rows = EPISODES * STEPS
    columns = {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-0.9, 0.9, (rows, 2)).astype(np.float32),
        "rewards": np.ones(rows),
    }
    return {names.get(key, key): column for key, column in columns.items()}


# Flags -> how many episodes terminated, how many timed out, and whether the file tells them apart.
TIMED_OUT, EVERY = LAST & ~ODD, EPISODES
HALF = (EVERY // 2, EVERY // 2, True)
FLAGS: dict[str, tuple[Columns, tuple[int, int, bool]]] = {
    "terminals and timeouts": ({"terminals": LAST & ODD, "timeouts": TIMED_OUT}, HALF),
    "terminals and truncations": ({"terminals": LAST & ODD, "truncations": TIMED_OUT}, HALF),
    "terminated and truncated": ({"terminated": LAST & ODD, "truncated": TIMED_OUT}, HALF),
    "terminations and truncations": ({"terminations": LAST & ODD, "truncations": TIMED_OUT}, HALF),
    "both flags at one step": ({"terminals": LAST & ODD, "truncated": LAST}, HALF),
    "dones beside terminals": ({"terminals": LAST & ODD, "dones": LAST}, HALF),
    "dones beside timeouts": ({"timeouts": TIMED_OUT, "dones": LAST}, HALF),
    "d3rlpy 1": ({"terminals": LAST & ODD, "episode_terminals": LAST}, HALF),
    "d3rlpy 1, endless": ({"terminals": NEVER, "episode_terminals": LAST}, (0, EVERY, True)),
    "beginnings beside terminals": (
        {"terminals": LAST & ODD, "is_first": FIRST},
        # nothing says how the last of them ends, unless it is a terminal
        (EVERY // 2, EVERY // 2, True),
    ),
    "dones alone": ({"dones": LAST}, (EVERY, 0, False)),
    "done alone": ({"done": LAST}, (EVERY, 0, False)),
    "terminals alone": ({"terminals": LAST}, (EVERY, 0, False)),
    "is_last alone": ({"is_last": LAST}, (EVERY, 0, False)),
    "beginnings alone": ({"episode_starts": FIRST}, (0, 0, False)),
    "floats": ({"terminals": NEVER.astype(float), "truncations": LAST * 1.0}, (0, EVERY, True)),
    "of shape (N, 1)": (
        {"terminals": NEVER[:, None], "truncated": LAST[:, None]},
        (0, EVERY, True),
    ),
}  # fmt: skip


def npz(folder: Path, columns: Columns) -> Path:
    np.savez(folder / "mine.npz", **columns)
    return folder / "mine.npz"


def hdf5(folder: Path, columns: Columns) -> Path:
    with h5py.File(folder / "mine.h5", "w") as file:
        for name, column in columns.items():
            file[name] = column
    return folder / "mine.h5"


def flat_pickle(folder: Path, columns: Columns) -> Path:
    (folder / "mine.pkl").write_bytes(pickle.dumps(columns))
    return folder / "mine.pkl"


def _split(columns: Columns) -> list[dict[str, Any]]:
    starts = range(0, EPISODES * STEPS, STEPS)
    return [{name: c[i : i + STEPS] for name, c in columns.items()} for i in starts]


def pickled(folder: Path, columns: Columns) -> Path:
    (folder / "mine.pkl").write_bytes(pickle.dumps(_split(columns)))
    return folder / "mine.pkl"


def pickled_lists(folder: Path, columns: Columns) -> Path:
    rows = [{name: list(c) for name, c in row.items()} for row in _split(columns)]
    (folder / "mine.pkl").write_bytes(pickle.dumps(rows))
    return folder / "mine.pkl"


def object_array(folder: Path, columns: Columns) -> Path:
    np.savez(folder / "mine.npz", trajectories=np.array(_split(columns), dtype=object))
    return folder / "mine.npz"


def parquet(folder: Path, columns: Columns) -> Path:
    flat = {n: c.reshape(-1) if n in step_columns.ROLE_OF and n not in ARRAYS else c
            for n, c in columns.items()}  # fmt: skip
    rows = [{name: c.tolist() for name, c in row.items()} for row in _split(flat)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "mine.parquet")
    return folder / "mine.parquet"


ARRAYS = ("observations", "actions", "obs", "states", "acts")
FLAT = (npz, hdf5, flat_pickle)
SPLIT = (pickled, pickled_lists, object_array, parquet)
Write = Callable[[Path, Columns], Path]


@pytest.mark.parametrize("write", [npz, hdf5, pickled, parquet])
@pytest.mark.parametrize("name", FLAGS)
def test_every_episode_is_found_and_ends_as_it_did(name: str, write: Write, tmp_path: Path) -> None:
    flags, (terminated, truncated, exact) = FLAGS[name]
    store = open_dataset(str(write(tmp_path, {**data(), **flags})))
    assert store.lengths.tolist() == [STEPS] * EPISODES
    assert store.returns.tolist() == [10.0] * EPISODES
    assert store.terminated.sum() == terminated
    if name != "beginnings beside terminals" or write in FLAT:
        assert store.truncated.sum() == truncated
        assert store.header["has_timeouts"] is exact


@pytest.mark.parametrize("write", [*FLAT, *SPLIT])
@pytest.mark.parametrize(("seen", "acted"), [("obs", "acts"), ("states", "actions")])
def test_data_have_other_names_too(seen: str, acted: str, write: Write, tmp_path: Path) -> None:
    expected = data()
    columns = {**data(observations=seen, actions=acted), "dones": LAST}
    store = open_dataset(str(write(tmp_path, columns)))
    for name in expected:
        np.testing.assert_array_equal(store.columns[name].array, expected[name])


@pytest.mark.parametrize("write", [*FLAT, *SPLIT])
def test_what_is_not_read_is_said(write: Write, tmp_path: Path) -> None:
    reporter = Lines()
    columns = {**data(), "terminals": LAST, "costs": np.ones(EPISODES * STEPS), "rtg": NEVER * 1.0}
    path = write(tmp_path, columns)
    for _ in range(2):  # a store that is there already says it as well
        reporter.lines.clear()
        store = open_dataset(str(path), Request(reporter=reporter))
        assert [f"{path.name}: columns not read: costs, rtg"] == reporter.lines
    findings = [f["detail"] for f in inspect(store)["findings"] if f["check"] == "reading"]
    assert findings == ["columns not read: costs, rtg"]


@pytest.mark.parametrize("write", FLAT)
def test_a_file_without_any_end_is_said_to_be_one_episode(write: Write, tmp_path: Path) -> None:
    store = open_dataset(str(write(tmp_path, {**data(), "terminals": NEVER})))
    assert store.num_episodes == 1
    assert any("all rows are read as one episode" in note for note in store.notes)


@pytest.mark.parametrize("write", FLAT)
def test_flags_that_contradict_each_other_are_refused(write: Write, tmp_path: Path) -> None:
    columns = {**data(), "terminals": LAST, "terminated": LAST & ODD}
    with pytest.raises(UserError, match="terminals and terminated differ, and mean the same"):
        open_dataset(str(write(tmp_path, columns)))


@pytest.mark.parametrize("write", FLAT)
def test_timeouts_alone_do_not_say_where_episodes_end(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no 'terminals'"):
        open_dataset(str(write(tmp_path, {**data(), "timeouts": LAST})))


@pytest.mark.parametrize("write", FLAT)
@pytest.mark.parametrize("kind", ["valids", "RLDS"])
def test_rows_of_final_observations_are_no_transitions(
    kind: str, write: Write, tmp_path: Path
) -> None:
    """OGBench's compact layout, and RLDS: the last row of an episode has no action or reward."""
    flags = {"valids": ~LAST * 1.0, "terminals": LAST | np.roll(LAST, -1)}
    if kind == "RLDS":
        flags = {"is_first": FIRST, "is_last": LAST, "is_terminal": LAST & ODD}
    columns = {**data(), **flags}
    store = open_dataset(str(write(tmp_path, columns)))
    assert store.lengths.tolist() == [STEPS - 1] * EPISODES
    assert store.header["transitions_in"] == store.num_transitions == EPISODES * (STEPS - 1)
    finals = columns["observations"][LAST]
    np.testing.assert_array_equal(store.columns["final_observations"].array, finals)
    assert store.truncated.sum() == (EPISODES if kind == "valids" else EPISODES // 2)
    assert store.notes[-1].endswith(("final observations", "as in RLDS"))


OGBENCH = ["cube-single-play-v0", "antmaze-large-navigate-v0", "visual-puzzle-3x3-noisy-v0"]


@pytest.mark.parametrize("name", [*OGBENCH, "mine"])
def test_ogbenchs_own_rows_are_never_misread(name: str, tmp_path: Path) -> None:
    """With rewards added; its own columns or its own names say what it is."""
    extra = {} if name != "mine" else {"qpos": data()["observations"]}
    columns = {**data(), "terminals": LAST, **extra}
    path = tmp_path / f"{name}.npz"
    np.savez(path, **columns)
    with pytest.raises(UserError, match="the last row of an episode holds only its final") as error:
        open_dataset(str(path))
    assert "\n" not in str(error.value)
    np.savez(path, **columns, timeouts=NEVER)  # the way out for rows that are transitions
    assert open_dataset(str(path)).num_transitions == EPISODES * STEPS


def test_d4rls_antmazes_are_not_ogbenchs(tmp_path: Path) -> None:
    np.savez(tmp_path / "antmaze-large-play-v2.npz", **data(), terminals=LAST)
    assert open_dataset(str(tmp_path / "antmaze-large-play-v2.npz")).num_episodes == EPISODES


def test_no_name_has_two_roles() -> None:
    names = list(itertools.chain.from_iterable(step_columns.NAMES.values()))
    assert len(names) == len(set(names))
