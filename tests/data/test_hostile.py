"""Damaged and hostile input, of every kind a reader may be given: one line, exit code 2.

A row: how it is made, and words of the line that names it. `test_d4rl.py`, `test_minari.py` and
`test_hub.py` hold further ones of their readers.
"""

import io
import json
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from decision_seq.cli import main
from decision_seq.data import store_root
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
    """What a pickle may do to whoever loads it."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


class Getter:
    def __reduce__(self) -> tuple:
        return getattr, (np.ndarray, "tofile")


class Huge:
    """An array of a petabyte, asked for by calling the class."""

    def __reduce__(self) -> tuple:
        return np.ndarray, ((2**50,),)


def zip_bomb(folder: Path) -> Path:
    """A few hundred kB that unpack to 300 MB of zeros."""
    archive = zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("observations.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (300 * 2**20 // 44, 11)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(300):
            file.write(bytes(2**20))
    return folder / "x.npz"


def lying_npz(folder: Path) -> Path:
    """A header that promises more rows than there are."""
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
    "pickle: not a list": (pickled(lambda: {"a": 1}), "no list of trajectories"),
    "pickle: a list of numbers": (pickled(lambda: [1, 2]), "not a dict"),
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
    """A column of another content, to which the header is made to agree."""

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
    assert "delete the store" in error
    assert error.count("\n") == 1


def test_a_pickle_of_numpy_1_or_protocol_2_is_data(tmp_path: Path) -> None:
    """What admits no program admits every pickle of arrays that there is."""
    from decision_seq.data import open_dataset

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
    """A program written by hand: opcodes, not an object's `__reduce__`."""
    command = f"touch {tmp_path / 'ran'}".encode()
    content = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."
    (tmp_path / "x.pkl").write_bytes(content)
    assert main(["data", "inspect", str(tmp_path / "x.pkl")]) == 2
    assert not (tmp_path / "ran").exists()
