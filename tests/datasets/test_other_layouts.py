"""Tests of layouts that are not read: one line that names the way out, which works."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from decision_seq.datasets import hdf5_links, open_dataset
from decision_seq.datasets.collected.behaviour import load_actor
from decision_seq.types import UserError


def d3rlpy(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["total_size"] = 1
        for name in ("observations", "actions", "rewards"):
            file[f"{name}_0"] = np.ones((5, 1))
        file["terminated_0"] = True
    return folder / "x.h5"


def robomimic(folder: Path) -> Path:
    with h5py.File(folder / "x.hdf5", "w") as file:
        for i in range(2):
            demo = file.create_group(f"data/demo_{i}")
            demo["obs/a"], demo["obs/b"] = np.ones((4, 2)), np.zeros((4, 1))
            demo["actions"], demo["rewards"] = np.zeros((4, 2)) + 0.5, np.ones(4)
            demo["dones"] = np.arange(4) == 3
    return folder / "x.hdf5"


def saved_to_disk(folder: Path) -> Path:
    for split in ("train", "test"):
        (folder / "x" / split).mkdir(parents=True)
        for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
            (folder / "x" / split / name).write_text("{}")
    return folder / "x"


def step_a_row(folder: Path) -> Path:
    rows = [
        {"obs": [1.0 * t, 2.0], "action": [0.5], "reward": 1.0, "done": t == 3, "episode": e}
        for e in range(2)
        for t in range(4)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    return folder / "x.parquet"


class Frame:
    """Pickles by the names that a pandas table does."""

    def __reduce__(self) -> tuple:
        import pandas

        return pandas.DataFrame, ({"a": [1]},)


def pickled(value: Callable[[], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "x.pkl").write_bytes(pickle.dumps(value()))
        return folder / "x.pkl"

    return make


def trajectory(**changes: Any) -> dict[str, Any]:
    flat = {"observations": np.ones((3, 2)), "actions": np.zeros(3, int), "rewards": np.ones(3)}
    return {**flat, "terminals": np.arange(3) == 2, **changes}


def tensor() -> Any:
    import torch

    return [trajectory(observations=torch.ones(3, 2))]


PART = {"agent": np.ones(1), "target": np.ones(1)}
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "d3rlpy 2": (d3rlpy, "it holds d3rlpy's episodes; save them: pickle.dump"),
    "robomimic": (robomimic, "as robomimic's files do; save them: pickle.dump"),
    "save_to_disk": (saved_to_disk, r"load_from_disk\(PATH\).to_parquet"),
    "a step a row": (step_a_row, r"groupby\('episode'\).agg\(list\).to_parquet"),
    "a pandas table": (pickled(Frame), "it holds a pandas table.*numpy.savez"),
    "tensors in a pickle": (pickled(tensor), r"it holds PyTorch tensors.*v.numpy\(\)"),
    "transitions": (
        pickled(lambda: [[(np.ones(2), 0, 1.0, np.ones(2), True)]]),
        "no list of trajectories but a list of lists; save a list of dicts of arrays",
    ),
    "dicts of a step": (
        pickled(lambda: [trajectory(observations=np.array([PART] * 3, dtype=object))]),
        "'observations' but an array of objects; join the parts of a step to one vector",
    ),
    "a dict of parts": (
        pickled(lambda: [trajectory(observations={"agent": np.ones((3, 1))})]),
        "'observations' but a dict of agent; join the parts of a step to one vector",
    ),
    "no ends": (
        pickled(lambda: [{k: v for k, v in trajectory().items() if k != "terminals"}]),
        r"trajectory 0 has no 'terminals' \(it holds actions, observations, rewards\)",
    ),
    "other names": (
        pickled(lambda: [{"x": np.ones((3, 2)), "y": 1}]),
        r"trajectory 0 has no 'observations' \(it holds x, y\)",
    ),
    "ragged lists": (
        pickled(lambda: [trajectory(observations=[[1.0, 2.0], [1.0], [2.0]])]),
        "trajectory 0: observations hold lists of 1 to 2 entries; one size is needed",
    ),
    "arrays of several shapes": (
        pickled(lambda: [trajectory(observations=[np.ones(2), np.ones(1), np.ones(2)])]),
        "observations hold arrays of different shapes",
    ),
    "the same arrays again and again": (
        pickled(lambda: [trajectory(observations=[np.ones(300_000)] * 200)]),
        "repeat the same arrays",
    ),
    "lists that double": (
        pickled(lambda: [trajectory(observations=doubled(40))]),
        "lists more than 8 deep",
    ),
}


def doubled(depth: int) -> list:
    value: list = [1.0]
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_way_out_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    make, words = LAYOUTS[name]
    path = make(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["robomimic", "a step a row"])
def test_the_way_out_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = LAYOUTS[name][0](tmp_path)
    with pytest.raises(UserError) as caught:
        open_dataset(str(path))
    code = re.search(r"(pickle\.dump|pandas\.read)\S.*", str(caught.value))
    assert code is not None
    monkeypatch.chdir(tmp_path)
    import pandas

    given = {"PATH": str(path), "KEYS": ["a", "b"], "numpy": np, "pandas": pandas}
    exec(code[0], {**given, "pickle": pickle, "h5py": h5py})
    store = open_dataset("x.pkl" if name == "robomimic" else "x.parquet")
    assert store.returns.tolist() == [4.0, 4.0]
    assert store.terminated.all()


def test_lists_and_nested_lists_are_arrays(tmp_path: Path) -> None:
    """Gymnasium's own values in lists: a list of arrays, of NumPy's numbers, of Python's."""
    rows = {
        "observations": [np.float32([t, 2]) for t in range(3)],
        "actions": [[0.5], [0.25], [0.0]],
        "rewards": [np.float64(1), 1.0, 1],
        "terminals": [np.bool_(False), False, True],
    }
    for value in ([rows, rows], {"trajectories": [rows, rows]}, (rows, rows)):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
        store = open_dataset(str(tmp_path / "x.pkl"))
        assert store.returns.tolist() == [3.0, 3.0]
        assert store.columns["observations"].array[:3, 0].tolist() == [0.0, 1.0, 2.0]


def links(folder: Path) -> Path:
    """A column that reaches another file by way of links in its own."""
    with h5py.File(folder / "other.h5", "w") as other:
        other["rewards"] = np.ones(9)
    with h5py.File(folder / "x.h5", "w") as file:
        file["terminals"] = np.arange(9) == 8
        file["observations"], file["actions"] = np.ones((9, 2)), np.ones((9, 1))
        file["far"] = h5py.ExternalLink("other.h5", "/")
        file["rewards"] = h5py.SoftLink("/near")
        file["near"] = h5py.SoftLink("/far/rewards")
    return folder / "x.h5"


def test_links_are_followed_to_their_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rewards lies in another file"):
        open_dataset(str(links(tmp_path)))
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["near"]
        file["group/real"] = np.ones(9)
        file["near"] = h5py.SoftLink("group/real")
        file["loop"] = h5py.SoftLink("/loop")
        with pytest.raises(UserError, match="leads nowhere"):
            hdf5_links.find(file, "loop")
    assert open_dataset(str(tmp_path / "x.h5")).returns.tolist() == [9.0]


def test_weights_that_are_only_promised_are_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for layer in ("fc0", "fc1", "last_fc", "last_fc_log_std"):
            file.create_dataset(
                f"metadata/policy/{layer}/weight", (3_000, 3_000), "f4", chunks=True
            )
            file.create_dataset(f"metadata/policy/{layer}/bias", (3_000,), "f4", chunks=True)
    with pytest.raises(UserError, match="promises weights that it does not hold"):
        load_actor(str(tmp_path / "x.hdf5"))
