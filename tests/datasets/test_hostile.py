"""Tests of damaged and hostile input to all readers: one-line errors, exit code 2.

A row has a function that makes the input, and words of the expected line. `test_d4rl.py`,
`test_minari.py` and `test_hub.py` contain further cases for their readers.
"""

import io
import json
import os
import pickle
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from decision_seq.cli import main
from decision_seq.datasets import open_dataset, store_root
from decision_seq.datasets.store import StoreWriter
from decision_seq.types import UserError
from tests.conftest import make_episode

Make = Callable[[Path], Path]


def columns(rows: int = 30) -> dict[str, Any]:
    episode = make_episode(rows, 0)
    ends = np.arange(rows) == rows - 1
    return {
        "observations": episode.observations[:-1],
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminals": ends,
    }


def changed(name: str, function: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    flat = columns()
    flat[name] = function(flat[name].copy())
    return flat


def put(array: np.ndarray, value: float) -> np.ndarray:
    array[7] = value
    return array


def hdf5(name: str, function: Callable[[np.ndarray], Any]) -> Make:
    def make(folder: Path) -> Path:
        with h5py.File(folder / "x.hdf5", "w") as file:
            for key, column in changed(name, function).items():
                file[key] = column
        return folder / "x.hdf5"

    return make


def npz(name: str, function: Callable[[np.ndarray], Any]) -> Make:
    def make(folder: Path) -> Path:
        np.savez_compressed(folder / "x.npz", **changed(name, function))
        return folder / "x.npz"

    return make


def pickled(content: Callable[[], Any]) -> Make:
    def make(folder: Path) -> Path:
        (folder / "x.pkl").write_bytes(pickle.dumps(content()))
        return folder / "x.pkl"

    return make


def trajectory(name: str, function: Callable[[np.ndarray], Any]) -> Make:
    return pickled(lambda: [columns(), changed(name, function)])


def raw(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def cut_short(make: Make) -> Make:
    def cut(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return cut


def same(array: np.ndarray) -> np.ndarray:
    return array


class Program:
    """Object whose unpickling would execute code."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


class Getter:
    def __reduce__(self) -> tuple:
        return getattr, (np.ndarray, "tofile")


class Huge:
    """Object whose unpickling would allocate an array of a petabyte."""

    def __reduce__(self) -> tuple:
        return np.ndarray, ((2**50,),)


def zip_bomb(folder: Path) -> Path:
    """File of a few hundred kB that unpacks to 300 MB of zeros."""
    archive = zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("observations.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (300 * 2**20 // 44, 11)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(300):
            file.write(bytes(2**20))
    return folder / "x.npz"


def lying_npz(folder: Path) -> Path:
    """File whose header declares more rows than it contains."""
    held = io.BytesIO()
    np.save(held, columns()["observations"])
    content = held.getvalue().replace(b"(30, 11)", b"(90, 11)")
    np.savez(folder / "x.npz", **columns())
    archive, honest = zipfile.ZipFile(folder / "y.npz", "w"), zipfile.ZipFile(folder / "x.npz")
    with archive, honest:
        for name in honest.namelist():
            archive.writestr(name, content if "observ" in name else honest.read(name))
    return folder / "y.npz"


def object_npz(folder: Path) -> Path:
    np.savez(folder / "x.npz", **changed("actions", lambda a: np.array([Program()] * len(a))))
    return folder / "x.npz"


def hdf5_of(name: str, make: Callable[[], Any], observations: Any = np.float32) -> Make:
    def made(folder: Path) -> Path:
        with h5py.File(folder / "x.hdf5", "w") as file:
            for key, column in columns().items():
                file[key] = column.astype(observations) if key == "observations" else column
            file[name] = make()
        return folder / "x.hdf5"

    return made


def hdf5_without_data(folder: Path) -> Path:
    rows = 30_000_000
    with h5py.File(folder / "x.hdf5", "w") as file:
        for name, shape in {"observations": (rows, 11), "actions": (rows, 3)}.items():
            file.create_dataset(name, shape, "f4", chunks=True)
        for name in ("rewards", "terminals"):
            file.create_dataset(name, (rows,), "f4", chunks=True)
    return folder / "x.hdf5"


def hdf5_elsewhere(folder: Path) -> Path:
    path = hdf5("rewards", same)(folder)
    with h5py.File(path, "a") as file, h5py.File(folder / "other.hdf5", "w") as other:
        other["rewards"] = file["rewards"][:]
        del file["rewards"]
        file["rewards"] = h5py.ExternalLink("other.hdf5", "rewards")
    return path


def hdf5_virtual(folder: Path) -> Path:
    path = hdf5("rewards", same)(folder)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        layout = h5py.VirtualLayout((30,), "f4")
        layout[:] = h5py.VirtualSource("gone.hdf5", "rewards", (30,))
        file.create_virtual_dataset("rewards", layout)
    return path


def named_otherwise(folder: Path) -> Path:
    np.savez(folder / "y.npz", **columns())
    archive, former = zipfile.ZipFile(folder / "x.npz", "w"), zipfile.ZipFile(folder / "y.npz")
    with archive, former:
        for name in former.namelist():
            other = "observations" if "observations" in name else name
            archive.writestr(other, former.read(name))
    return folder / "x.npz"


def npz_header(text: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = npz("rewards", same)(folder)
        with zipfile.ZipFile(folder / "y.npz", "w") as archive:
            for name in zipfile.ZipFile(path).namelist():
                header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"
                archive.writestr(name, header)
        return folder / "y.npz"

    return make


def parquet_bomb(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    steps = 3_300_000
    zeros = pa.array(np.zeros(steps * 11, np.float32))
    vectors = pa.FixedSizeListArray.from_arrays(zeros, 11)
    table = {
        "observations": pa.ListArray.from_arrays([0, steps], vectors),
        "rewards": pa.ListArray.from_arrays([0, steps], zeros[:steps]),
        "terminated": pa.array([True]),
        "truncated": pa.array([False]),
    }
    table["actions"] = table["observations"]
    parquet.write_table(pa.table(table), folder / "x.parquet")
    return folder / "x.parquet"


def folder_of_nothing(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "x.hdf5")
    return folder / "x.hdf5"


def unreadable(folder: Path) -> Path:
    path = npz("rewards", same)(folder)
    path.chmod(0)
    return path


HOSTILE: dict[str, tuple[Make, str]] = {
    "hdf5: inf": (hdf5("actions", lambda a: put(a, np.inf)), "actions hold NaN or infinity"),
    "hdf5: beyond float32": (
        hdf5("observations", lambda a: put(a.astype(float), 1e300)),
        "observations hold NaN or infinity",
    ),
    "hdf5: rewards that sum to inf": (
        hdf5("rewards", lambda a: np.full(len(a), 1e308)),
        "sum to infinity",
    ),
    "hdf5: no width": (hdf5("observations", lambda a: a[:, :0]), "observations has shape"),
    "hdf5: compound rows": (
        hdf5("rewards", lambda a: np.zeros(len(a), [("x", float)])),
        "not numbers",
    ),
    "hdf5: text": (hdf5("actions", lambda a: ["a"] * len(a)), "not numbers"),
    "hdf5: a folder": (lambda f: (f / "x.hdf5").mkdir() or f / "x.hdf5", "is no dataset"),
    "hdf5: a pipe": (pipe, "no regular file"),
    "hdf5: rows without data": (hdf5_without_data, "would unpack to"),
    "hdf5: data in another file": (hdf5_elsewhere, "lies in another file"),
    "hdf5: a virtual column": (hdf5_virtual, "lies in other files"),
    "hdf5: frames and then numbers": (
        hdf5_of("next_observations", lambda: np.full((30, 11), 300.7), observations=np.uint8),
        "next_observations are float64",
    ),
    "hdf5: choices beyond counting": (
        hdf5("actions", lambda a: np.full(len(a), 2**63, np.uint64)),
        "count them from 0",
    ),
    "npz: a name without .npy": (named_otherwise, "has no 'observations'"),
    "npz: a header cut short": (npz_header(b"{'descr': '<f4', 'shape': (3,"), "no .npz archive"),
    "npz: empty": (raw("x.npz", b""), "is empty"),
    "npz: cut short": (cut_short(npz("rewards", same)), "no .npz archive"),
    "npz: text": (raw("x.npz", b"not an archive"), "no .npz archive"),
    "npz: a column is missing": (
        lambda f: np.savez(f / "x.npz", observations=np.zeros((3, 2))) or f / "x.npz",
        "has no 'actions'",
    ),
    "npz: NaN": (npz("rewards", lambda a: put(a, np.nan)), "rewards hold NaN"),
    "npz: wrong length": (npz("actions", lambda a: a[:-1]), "differ in length"),
    "npz: wrong shape": (npz("observations", lambda a: a[:, 0]), "observations has shape"),
    "npz: complex numbers": (npz("actions", lambda a: a + 1j), "not numbers"),
    "npz: Python objects": (object_npz, "Python objects"),
    "npz: a lying header": (lying_npz, "rows its header promises"),
    "npz: a zip bomb": (zip_bomb, "would unpack to"),
    "pickle: runs a program": (pickled(Program), "system"),
    "pickle: reaches for an attribute": (pickled(Getter), "builtins.getattr"),
    "pickle: asks for a petabyte": (pickled(Huge), "no pickle, or is cut short"),
    "pickle: objects in an array": (
        trajectory("actions", lambda a: np.array([{}] * len(a))),
        "trajectory 1 has no array 'actions'",
    ),
    "pickle: cut short": (cut_short(trajectory("rewards", same)), "no pickle"),
    "pickle: empty": (raw("x.pkl", b""), "is empty"),
    "pickle: a far memo": (
        raw("x.pkl", b"\x80\x04]r" + struct.pack("<I", 2**28) + b"."),
        "no list of trajectories",
    ),
    "pickle: tuples in tuples": (
        raw("x.pkl", b"\x80\x04})" + b"\x85" * 10**6 + b"K\x01s."),
        "keys that are no names",
    ),
    "parquet: one number, often": (parquet_bomb, "would unpack to"),
    "pickle: not a list": (pickled(lambda: {"a": 1}), "has no 'observations'"),
    "pickle: a list of numbers": (pickled(lambda: [1, 2]), "no list of trajectories"),
    "pickle: no trajectory": (pickled(list), "no list of trajectories"),
    "pickle: NaN": (trajectory("observations", lambda a: put(a, np.nan)), "hold NaN"),
    "pickle: wrong shape": (trajectory("actions", lambda a: a[:3]), "do not belong together"),
    "pickle: an end in the middle": (
        trajectory("terminals", lambda a: put(a, 1)),
        "before its last step",
    ),
    "a kind nobody knows": (raw("x.csv", b"1,2"), "is of no known kind"),
    "a folder of nothing": (folder_of_nothing, "is no dataset"),
}


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE.keys())
def test_bad_input_is_one_line_and_exit_code_2(
    case: tuple[Make, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, words = case
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    assert main(["data", "inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert path.name in captured.err
    assert not (tmp_path / "ran").exists()
    root = store_root()
    assert not root.exists() or list(root.iterdir()) == []


NAMES = {
    "": "no dataset's name",
    "hopper\0medium": "no dataset's name",
    "hopper\nmedium": "no dataset's name",
    "bundled/../../etc/passwd": "does not exist",
    "d4rl/../hopper-medium-v2": "D4RL has no dataset",
    "minari/../../x-v0": "is no name of a dataset",
    "minari//etc/x-v0": "is no name of a dataset",
    "hub/../..": "is no name of a dataset",
    "hub/a/b:../../c": "is no name of a dataset",
    "/no/such/file.hdf5": "does not exist",
    "x" * 5000: "File name too long",
    "hopper-medium+": "a part of it is empty",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere_are_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "inspect", name]) == 2
    error = capsys.readouterr().err
    assert NAMES[name] in error
    assert error.count("\n") == 1


def _column(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Damage that changes a column's contents and adapts the header."""

    def damage(store: Path) -> None:
        array = function(np.load(store / f"{name}.npy"))
        np.save(store / f"{name}.npy", array)
        header = json.loads((store / "header.json").read_text())
        facts = {"dtype": array.dtype.str, "shape": list(array.shape)}
        header["columns"][name].update(facts)
        (store / "header.json").write_text(json.dumps(header))

    return damage


def _header(key: str, value: Any) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        header = json.loads((store / "header.json").read_text())
        header[key] = value
        (store / "header.json").write_text(json.dumps(header))

    return damage


def pipe_header(store: Path) -> None:
    (store / "header.json").unlink()
    os.mkfifo(store / "header.json")


def stretched(store: Path) -> None:
    header = json.loads((store / "header.json").read_text())
    header["statistics"]["observation_mean"] = [1.0]
    (store / "header.json").write_text(json.dumps(header))


STORES: dict[str, tuple[Callable[[Path], None], str]] = {
    "rows fewer than promised": (_column("rewards", lambda a: a[:-1]), "do not fit"),
    "offsets of two dimensions": (_column("offsets", lambda a: a[None]), "offsets cannot be"),
    "offsets that are one number": (_column("offsets", lambda a: a[0]), "offsets cannot be"),
    "offsets that fall": (_column("offsets", lambda a: a[[0, 2, 1, 3, 4, 5]]), "do not fit"),
    "flags of another number": (_column("terminated", lambda a: a[:-1]), "terminated cannot be"),
    "both kinds of end": (_column("truncated", np.ones_like), "both terminated and truncated"),
    "short final observations": (
        _column("final_observations", lambda a: a[:-1]),
        "final_observations cannot be",
    ),
    "rewards of text": (_column("rewards", lambda a: a.astype("S8")), "rewards cannot be"),
    "statistics of nothing": (_header("statistics", None), "'statistics' is malformed"),
    "a family that is a number": (_header("family", 7), "'family' is malformed"),
    "a limit that is text": (_header("max_episode_steps", "x"), "malformed"),
    "columns that are a list": (_header("columns", []), "'columns' is malformed"),
    "no source": (_header("source", {}), "'source' is malformed"),
    "another format": (_header("format", 99), "not of format"),
    "deep nesting": (
        lambda s: (s / "header.json").write_text("[" * 100_000) and None,
        "cannot be read",
    ),
    "a column that is a pickle": (
        lambda s: np.save(s / "rewards.npy", np.array([Program()]), allow_pickle=True),
        "rewards.npy cannot be read",
    ),
    "a pipe for a header": (pipe_header, "it is a pipe"),
    "numbers beyond numbers": (_header("reference_scores", [0, 10**400]), "a number of 401 digits"),
    "scores that are one": (_header("reference_scores", [1, 1]), "malformed"),
    "statistics that numpy would stretch": (stretched, "observation_mean is of shape"),
    "a name that moves the cursor": (_header("name", "x\x1b[2J"), "'name' is malformed"),
    "a column gone": (lambda s: (s / "actions.npy").unlink(), "actions.npy cannot be read"),
}


@pytest.mark.parametrize("case", STORES.values(), ids=STORES.keys())
def test_a_store_that_lies_is_refused(
    case: tuple[Callable[[Path], None], str], store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = case
    damage(store.path)
    assert main(["data", "inspect", str(store.path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "delete the store" in error or "no episode store" in error
    assert error.count("\n") == 1


def test_a_pickle_of_numpy_1_or_protocol_2_is_data(tmp_path: Path) -> None:
    """The restricted unpickler accepts every kind of pickle of arrays."""
    expected = None
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps([columns(), columns(9)], protocol)
        if protocol == 2:
            content = content.replace(b"numpy._core", b"numpy.core")
        path = tmp_path / f"hopper-{protocol}.pkl"
        path.write_bytes(content)
        store = open_dataset(str(path))
        expected = expected or store.checksum
        assert store.checksum == expected
    assert store.lengths.tolist() == [30, 9]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = unreadable(tmp_path)
    assert not path.stat().st_mode & stat.S_IRUSR
    assert main(["data", "inspect", str(path)]) == 2
    assert "x.npz" in capsys.readouterr().err


def test_pickles_are_refused_before_anything_runs(tmp_path: Path) -> None:
    """The program is written as opcodes, without an object's `__reduce__`."""
    command = f"touch {tmp_path / 'ran'}".encode()
    content = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."
    (tmp_path / "x.pkl").write_bytes(content)
    assert main(["data", "inspect", str(tmp_path / "x.pkl")]) == 2
    assert not (tmp_path / "ran").exists()


def test_data_may_not_name_a_module_to_be_imported(
    store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gymnasium imports `module` for an environment called `module:Env-v0`."""
    _header("env_id", "this:Foo-v0")(store.path)
    assert main(["data", "inspect", str(store.path)]) == 0
    assert "never for one named by data" in capsys.readouterr().out
    assert "this" not in sys.modules


def test_nothing_that_is_not_a_store_is_ever_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "precious").write_text("x")
    monkeypatch.chdir(tmp_path / "here")
    collect = ["data", "collect", "--policy", "uniform", "--env", "Hopper-v4", "--workers", "1"]
    assert main([*collect, "--episodes", "1", "--output", "new/.."]) == 2
    assert (tmp_path / "here" / "precious").read_text() == "x"
    writer = StoreWriter(tmp_path / "store")
    writer.append(make_episode(9, 0))
    (tmp_path / "store").mkdir()  # another process makes the folder meanwhile
    (tmp_path / "store" / "notes").write_text("x")
    facts = {"env_id": None, "family": None, "max_episode_steps": None, "transitions_in": 9}
    with pytest.raises(UserError, match="in the way"):
        writer.finish("x", {"description": "x"}, has_timeouts=True, **facts)
    assert (tmp_path / "store" / "notes").read_text() == "x"


def test_a_file_replaced_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npz("rewards", same)(tmp_path)
    stamps = iter(({"files": "before"}, {"files": "after"}))
    monkeypatch.setattr("decision_seq.datasets.stamp", lambda path, files: next(stamps))
    with pytest.raises(UserError, match="changed while it was read"):
        open_dataset(str(path))
    assert list(store_root().iterdir()) == []


def test_a_name_that_the_sizes_contradict_names_no_task(tmp_path: Path) -> None:
    path = npz("rewards", same)(tmp_path)  # Hopper's sizes
    for name, env_id in (("walker2d_medium.npz", None), ("hopper_medium.npz", "Hopper-v4")):
        assert open_dataset(str(path.rename(tmp_path / name))).header["env_id"] == env_id
        path = tmp_path / name


def test_a_dataset_is_not_written_into_itself(
    store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(store.path / "inside")
    command = ["data", "convert", str(store.path), "--to", "parquet", "--output", output]
    assert main(command) == 2
    assert "lies within the dataset itself" in capsys.readouterr().err
