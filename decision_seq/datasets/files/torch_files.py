"""Files of `torch.save`, read without PyTorch: a zip archive, or the older stream of pickles.

Tensors are inert views of their storages (`stand_ins`). What an archive declares is held against
the bytes that are there before anything is unpacked.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decision_seq.datasets.files import trajectories
from decision_seq.datasets.files.inert_pickle import run
from decision_seq.datasets.files.pickle_machine import Machine
from decision_seq.datasets.files.pickle_names import STORAGES, TORCH, item_size
from decision_seq.datasets.files.stand_ins import MOST_LENGTH, Damaged, Name, Storage
from decision_seq.datasets.step_columns import shown
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.source_files import describe_file, require_file
from decision_seq.types import Reporter, UserError

# Numbers hardly compress, and torch.save does not try to.
MOST_RATIO, LEAST = 8, 64 << 20
MOST_PICKLE = 64 << 20  # bytes of the pickle that names the tensors
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_OLD = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    Damaged,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    ValueError,
)


def is_one(path: Path) -> bool:
    """Whether a file, a zip archive or a pickle, begins as those of `torch.save` do."""
    with open(path, "rb") as file:
        start = file.read(512)
    return start.startswith(_OLD) or (start.startswith(b"PK") and b"/data.pkl" in start[:256])


def load(path: Path) -> Any:
    """The inert value of a file, with the bytes of its storages.

    Damaged for what is no such file or is cut short, UserError for what is refused.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return _archive(archive, path.stat().st_size)
        return _stream(path.read_bytes())
    except DAMAGE as error:
        raise Damaged(str(error)) from error


def _refusal(module: str, name: str) -> UserError:
    return UserError(
        f"it names {shown(module)}.{shown(name)}, so it is a program; save plain dicts of tensors,"
        " such as a model's state_dict()"
    )


def _archive(archive: zipfile.ZipFile, size: int) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    total = sum(entry.file_size for entry in archive.infolist())
    if total > max(LEAST, MOST_RATIO * size):
        raise UserError(
            f"its {size / 1e6:.1f} MB would unpack to {total / 1e9:.1f} GB, which no tensors do; it"
            " is not read"
        )
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or entries[pickles[0]].file_size > MOST_PICKLE:
        raise Damaged("it holds no data.pkl of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
        raise UserError("its numbers are big-endian; save it on another machine")
    storages: dict[str, Storage] = {}

    def persistent(key: Any) -> Storage:
        storage = _storage(key, storages)
        if storage.data is None:
            entry = entries.get(f"{folder}data/{storage.key}")
            if entry is None or entry.file_size != storage.numel * item_size(storage.kind):
                raise Damaged("a tensor has more or fewer numbers than are stored")
            storage.data = archive.read(entry)
        return storage

    return run(Machine(archive.read(pickles[0]), TORCH, persistent, refusal=_refusal))


def _storage(key: Any, known: dict[str, Storage]) -> Storage:
    """The storage of a persistent id: ("storage", kind, key, location, numel, None)."""
    sound = isinstance(key, tuple) and 5 <= len(key) <= 6 and key[0] == "storage"
    if not sound or not isinstance(key[1], Name) or not isinstance(key[2], str):
        raise Damaged("a storage is described in an unusual way")
    kind, numel = key[1].name, key[4]
    if kind not in STORAGES or type(numel) is not int or not 0 <= numel < MOST_LENGTH:
        raise Damaged("a storage is described in an unusual way")
    if key[5:] not in ((), (None,)):
        raise Damaged("a storage is a part of another, as in files of PyTorch 0.1")
    found = known.setdefault(key[2], Storage(kind, key[2], numel))
    if (found.kind, found.numel) != (kind, numel):
        raise Damaged("a storage is described in two ways")
    return found


def _stream(content: bytes) -> Any:
    """The value in the format before PyTorch 1.6: five pickles, then the storages' numbers."""
    storages: dict[str, Storage] = {}
    at = 0

    def following(persistent: Callable[[Any], Any] | None = None) -> Any:
        nonlocal at
        machine = Machine(content, TORCH, persistent, at, _refusal)
        value = run(machine)
        at = machine.at
        return value

    if following() != MAGIC or following() != PROTOCOL:
        raise Damaged("it is no file of torch.save")
    system = following()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UserError("its numbers are big-endian; save it on another machine")
    value = following(lambda key: _storage(key, storages))
    keys = following()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Damaged("its list of storages is malformed")
    view = memoryview(content)
    for key in keys:
        storage = storages.get(key)
        if storage is None:
            raise Damaged("it stores numbers that no tensor has")
        size = storage.numel * item_size(storage.kind)
        stored = int.from_bytes(view[at : at + 8], "little")
        if stored != storage.numel or len(view) - at - 8 < size:
            raise Damaged("a tensor has more or fewer numbers than are stored")
        storage.data = view[at + 8 : at + 8 + size]
        at += 8 + size
    if any(storage.data is None for storage in storages.values()):
        raise Damaged("a tensor has more or fewer numbers than are stored")
    return value


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read trajectories of tensors into a store at `output`; UserError for a bad file."""
    require_file(path, "a file of torch.save")
    try:
        value = load(path)
        with StoreWriter(output) as writer:
            source = describe_file("torch", "trajectories of PyTorch tensors", path)
            return trajectories.write(writer, value, path.stat().st_size, path.stem, source)
    except Damaged as error:
        raise UserError(f"{path} is no file of torch.save, or is cut short ({error})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
