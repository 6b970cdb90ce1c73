"""Random changes of sound files, read in a process of bounded memory; run by `test_fuzz.py`.

`python -m tests.datasets.files.fuzz COUNT SEED` prints one line and ends with 0 if every input was
read or refused.
"""

import io
import os
import pickle
import resource
import sys
import tempfile
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from decision_seq.datasets.files import npz, pickles, torch_files
from decision_seq.sharing import foreign
from decision_seq.types import UserError

MEMORY = 1 << 30  # bytes that reading may add
SECONDS = 10
OPCODES = b"0123456789().abcdeghijlopqrstuBCGKQRX}]\x80\x81\x85\x86\x87\x8c\x8e\x93\x94"


def sound() -> dict[str, bytes]:
    """Files that are read, by the suffix of their reader."""
    rows = 6
    episode = {
        "observations": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3),
        "actions": np.asfortranarray(np.arange(rows * 2, dtype=np.float64).reshape(rows, 2)),
        "rewards": [np.float32(1.5), *[0.5] * (rows - 1)],
        "terminals": np.arange(rows) == rows - 1,
    }
    tensors = {key: torch.tensor(np.asarray(value)) for key, value in episode.items()}
    files = {f"{p}.pkl": pickle.dumps([episode, episode], p) for p in range(6)}
    for name, value, zipped in (
        ("list.pt", [tensors, tensors], True),
        ("old.pt", [tensors], False),
        ("state.bin", OrderedDict(tensors, mean=np.zeros(3)), True),
        ("old.bin", OrderedDict(tensors), False),
    ):
        held = io.BytesIO()
        torch.save(value, held, _use_new_zipfile_serialization=zipped)
        files[name] = held.getvalue()
    held = io.BytesIO()
    np.save(held, np.array([episode, episode], dtype=object), allow_pickle=True)
    files["objects.npy"] = held.getvalue()
    return files


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with up to four bytes, blocks or opcodes changed."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at, kind = int(rng.integers(len(data))), int(rng.integers(6))
        other = int(rng.integers(len(data)))
        size = int(rng.integers(1, 40))
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[other : other + size]
        elif kind == 4:
            data[at] = OPCODES[int(rng.integers(len(OPCODES)))]
        else:
            data[at : at + 4] = int(rng.integers(2**32)).to_bytes(4, "little")
        if not data:
            return b"\x00"
    return bytes(data)


def repacked(content: bytes, rng: np.random.Generator) -> bytes:
    """An archive with changes in its pickle, whose checksums are right again."""
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as former, zipfile.ZipFile(held, "w") as archive:
        for entry in former.infolist():
            inner = former.read(entry)
            archive.writestr(
                entry.filename, changed(inner, rng) if ".pkl" in entry.filename else inner
            )
    return held.getvalue()


def read(path: Path, output: Path) -> None:
    """Read a file as its suffix says; UserError if it is refused."""
    if path.suffix == ".bin":
        foreign.read(path, str(path))
        return
    {".pkl": pickles.read, ".pt": torch_files.read, ".npy": npz.read_npy}[path.suffix](path, output)


def main(count: int, seed: int) -> None:
    files, rng = sound(), np.random.default_rng(seed)
    names, outcomes = sorted(files), {"read": 0, "refused": 0, "refused in several lines": 0}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_bytes(files[name])
            read(Path(folder) / name, Path(folder) / "store")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for number in range(count):
            name = names[number % len(names)]
            path = Path(folder) / name
            zipped = files[name].startswith(b"PK") and rng.random() < 0.8
            path.write_bytes((repacked if zipped else changed)(files[name], rng))
            # A file that hangs or crashes stays behind to be looked at.
            keeper = threading.Timer(SECONDS, hung, (path, number))
            keeper.start()
            try:
                read(path, Path(folder) / "store")
                outcomes["read"] += 1
            except UserError as error:
                several = " in several lines" if "\n" in str(error) else ""
                outcomes["refused" + several] += 1
            except BaseException:
                Path("fuzz-input").write_bytes(path.read_bytes())
                sys.stderr.write(f"input {number} of seed {seed}, {name}\n")
                raise
            finally:
                keeper.cancel()
    sys.stdout.write(f"{count} inputs: {outcomes}\n")
    sys.exit(int(outcomes["refused in several lines"] > 0))


def hung(path: Path, number: int) -> None:
    """End the process for an input that takes too long."""
    sys.stderr.write(f"input {number}, {path.name}: longer than {SECONDS} s\n")
    sys.stderr.flush()
    os._exit(3)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
