"""Tests of files of `torch.save`: what they hold is read, what they only promise is refused."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from decision_seq.datasets import open_dataset
from decision_seq.datasets.files import torch_files
from decision_seq.datasets.files.stand_ins import Damaged
from decision_seq.sharing import foreign
from decision_seq.types import UserError

BASE = torch.arange(24.0)
TENSORS: dict[str, Tensor] = {
    "float32": BASE.reshape(4, 6),
    "a view": BASE[3:9],
    "transposed": BASE.reshape(4, 6).T,
    "with steps": BASE[::2],
    "float64": torch.ones(3, dtype=torch.float64),
    "float16": torch.ones(3).half(),
    "bfloat16": torch.ones(3).bfloat16() / 3,
    "int64": torch.arange(-3, 3),
    "bool": torch.tensor([True, False]),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "a parameter": torch.nn.Parameter(torch.ones(2)),
    "no dimension": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "complex": torch.ones(2, dtype=torch.complex64),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_every_plain_tensor_is_what_it_was(zipped: bool, tmp_path: Path) -> None:
    state = OrderedDict(TENSORS)
    statistics = {"state_mean": np.arange(3.0), "state_std": torch.ones(3)}
    given = {"model": state, **statistics, "epoch": 3, "options": {"lr": 1e-4, "name": "x"}}
    torch.save(given, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = foreign.read(tmp_path / "x.pt", "x")
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found.tensors[name], tensor.data, rtol=0, atol=0)
        assert found.tensors[name].dtype == tensor.dtype
    np.testing.assert_array_equal(found.config["state_mean"], np.arange(3.0))
    np.testing.assert_array_equal(found.config["state_std"], np.ones(3))


def test_tied_weights_are_read(tmp_path: Path) -> None:
    shared = torch.randn(1000, 100)
    torch.save({"a": shared, "b": shared, "c": shared.T}, tmp_path / "x.pt")
    assert len(foreign.read(tmp_path / "x.pt", "x").tensors) == 3


def aliases(path: Path) -> None:
    """600 layers of 12 MB that are one."""
    shared = torch.zeros(3_000_000)
    torch.save({f"layer{i}": shared for i in range(600)}, path)


def slices(path: Path) -> None:
    """Small parts of one large storage, each of which could bring the whole with it."""
    shared = torch.zeros(3_000_000)
    torch.save({f"layer{i}": shared[i : i + 2] for i in range(600)}, path)


def deflated(path: Path) -> None:
    """300 kB that unpack to 72 MB."""
    held = io.BytesIO()
    torch.save({"a": torch.zeros(8)}, held)
    with zipfile.ZipFile(held) as former, zipfile.ZipFile(path, "w") as archive:
        for entry in former.infolist():
            archive.writestr(entry, former.read(entry))
        archive.writestr("archive/data/1", bytes(72 << 20), zipfile.ZIP_DEFLATED, 1)


def edited(change: Callable[[bytes], bytes], zipped: bool = True) -> Callable[[Path], None]:
    """A file whose pickle is changed."""

    def make(path: Path) -> None:
        held = io.BytesIO()
        torch.save({"a": torch.zeros(200)}, held, _use_new_zipfile_serialization=zipped)
        if not zipped:
            path.write_bytes(change(held.getvalue()))
            return
        with zipfile.ZipFile(held) as former, zipfile.ZipFile(path, "w") as archive:
            for entry in former.infolist():
                content = former.read(entry)
                changed = change(content) if "data.pkl" in entry.filename else content
                archive.writestr(entry.filename, changed)

    return make


def promise(content: bytes) -> bytes:
    """200 numbers as 2^31 - 1, wherever they are counted."""
    assert b"K\xc8" in content
    return content.replace(b"K\xc8", b"J\xff\xff\xff\x7f")


def stretched(content: bytes) -> bytes:
    """The tensor's shape, but not its storage, is 60,000."""
    at = content.rindex(b"K\xc8")
    return content[:at] + b"M\x60\xea" + content[at + 2 :]


def negative(content: bytes) -> bytes:
    at = content.rindex(b"K\x00")
    return content[:at] + b"J\xff\xff\xff\xff" + content[at + 2 :]


class Program:
    def __reduce__(self) -> tuple:
        return print, ("ran",)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "aliases of one storage": (aliases, "views of the same numbers"),
    "an archive that grows": (deflated, "would unpack to"),
    "numbers that are not there": (edited(promise), "more or fewer numbers than are stored"),
    "numbers that are not there, old format": (edited(promise, False), "more or fewer numbers"),
    "a shape beyond the storage": (edited(stretched), "beyond its numbers"),
    "a shape beyond the storage, old format": (edited(stretched, False), "beyond its numbers"),
    "a negative offset": (edited(negative), "cut short"),
    "another's name": (
        edited(lambda c: c.replace(b"torch._utils\n_rebuild_tensor_v2", b"os\nsystem")),
        "it names os.system, so it is a program",
    ),
    "a program": (lambda p: torch.save({"a": Program()}, p), "so it is a program"),
    "an expanded tensor": (
        lambda p: torch.save({"a": torch.ones(1, 1).expand(10**9, 9)}, p),
        "views of the same numbers",
    ),
    "a sparse tensor": (lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p), "no plain array"),
    "an archive without a pickle": (
        lambda p: zipfile.ZipFile(p, "w").writestr("x", "y"),
        "no data.pkl",
    ),
    "a plain pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})) and None, "cut short"),
}


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_promises_more_than_it_holds_is_refused(
    case: tuple[Callable[[Path], None], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = case
    make(tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt") as caught:
        foreign.read(tmp_path / "x.pt", "x.pt")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_small_parts_of_a_storage_do_not_copy_it_each(tmp_path: Path) -> None:
    slices(tmp_path / "x.pt")
    found = foreign.read(tmp_path / "x.pt", "x")
    assert len({t.untyped_storage().data_ptr() for t in found.tensors.values()}) == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_is_damaged(zipped: bool, tmp_path: Path) -> None:
    held = io.BytesIO()
    torch.save([{"a": torch.zeros(3)}], held, _use_new_zipfile_serialization=zipped)
    whole = held.getvalue()
    for length in range(1, len(whole) - 1, 11):
        (tmp_path / "x.pt").write_bytes(whole[:length])
        with pytest.raises(Damaged):
            torch_files.load(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["x.pt", "x.pth", "without-a-suffix"])
def test_trajectories_of_tensors_are_read(name: str, zipped: bool, tmp_path: Path) -> None:
    episodes: list[dict[str, Any]] = [
        {
            "observations": torch.randn(length, 3),
            "actions": torch.randint(0, 2, (length,)),
            "rewards": torch.ones(length),
            "terminals": torch.arange(length) == length - 1,
        }
        for length in (5, 8)
    ]
    torch.save(episodes, tmp_path / name, _use_new_zipfile_serialization=zipped)
    store = open_dataset(str(tmp_path / name))
    assert store.returns.tolist() == [5.0, 8.0]
    assert store.terminated.all()
    for episode, kept in zip(episodes, store.episodes(), strict=True):
        np.testing.assert_array_equal(kept.observations, episode["observations"].numpy())
        np.testing.assert_array_equal(kept.actions, episode["actions"].numpy())
