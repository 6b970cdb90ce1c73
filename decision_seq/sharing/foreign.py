"""Reading of models that other programs wrote: files, folders, repositories of the Hub.

None of their code is run. Tensors come from safetensors, or from a file of `torch.save` that is
read as data (`datasets/files/torch_files.py`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from decision_seq import checkpoint, tensor_files
from decision_seq.config import require
from decision_seq.datasets.fetching import remote
from decision_seq.datasets.files import torch_files
from decision_seq.datasets.files.stand_ins import Damaged
from decision_seq.datasets.store.source_files import require_file, sha256
from decision_seq.reading import Absent, Unreadable, read_json, read_text
from decision_seq.sharing import torch_views
from decision_seq.types import Reporter, UserError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG, CARD = "config.json", "README.md"
OURS = (checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.STATE)
NESTED = ("model_state", "model_state_dict", "state_dict", "model")
STATISTICS = ("state_mean", "state_std")
MOST_STATES = 1 << 20  # numbers in a vector of statistics


def copy_ours(path: Path, output: Path) -> None:
    """Copy a checkpoint of ours without its optimiser, which `evaluate` does not need."""
    for name in OURS:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path / name, output / name)


@dataclass(frozen=True)
class Foreign:
    """The content of a model that another program wrote."""

    name: str
    """Name of the model: its source as given, or the stem of its file."""
    description: str
    """Source, file and checksum, for the imported checkpoint's facts."""
    tensors: Mapping[str, Tensor]
    """Tensors by their names in the file."""
    config: dict[str, Any] = field(default_factory=dict)
    """Content of config.json, and the state statistics saved with the weights."""
    card: str = ""
    """Text of README.md."""


@contextmanager
def at_hand(source: str, reporter: Reporter) -> Iterator[Path]:
    """The path of a local file or folder, or of a temporary download of a Hub repository."""
    path = Path(source)
    if path.exists():
        yield path
        return
    if not REPOSITORY.fullmatch(source):
        raise UserError(f"{source} does not exist, and is no OWNER/NAME of the Hub")
    with tempfile.TemporaryDirectory(prefix="decision-seq-") as folder:
        yield _fetch(source, Path(folder), reporter)


def _fetch(repo: str, folder: Path, reporter: Reporter) -> Path:
    remote.require_hub(repo)
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=remote.hub_endpoint())
    with remote.told_of(repo, lambda: "check its spelling"), remote.quiet():
        info = api.model_info(repo)
        there = {sibling.rfilename for sibling in info.siblings or []}
        weights = [name for name in WEIGHTS if name in there][:1]
        wanted = [n for n in (CONFIG, CARD, *OURS) if n in there and n not in WEIGHTS] + weights
        reporter.say(f"{repo}: fetching {', '.join(wanted) or 'nothing'} at {info.sha}")
        for name in wanted:
            api.hf_hub_download(repo, name, revision=info.sha, local_dir=folder)
    return folder


def is_ours(path: Path) -> bool:
    """Whether `path` is a checkpoint folder of this package."""
    return all((path / name).is_file() for name in (checkpoint.CONFIG, checkpoint.STATE))


def read(path: Path, source: str) -> Foreign:
    """Read a folder in transformers' layout or a file with a state dict.

    source: its name as the user gave it.
    """
    if not path.is_dir():
        require_file(path, "a model's file or folder")
        tensors, statistics = _tensors(path, source)
        return Foreign(path.stem, _describe(source, path), tensors, statistics)
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not found:
        raise UserError(f"{source} has neither {' nor '.join(WEIGHTS)}; give such a folder or file")
    config = _read_json(path / CONFIG, source)
    tensors, statistics = _tensors(found[0], source)
    card = path / CARD
    text = read_text(card, errors="replace") if card.exists() else ""
    return Foreign(source, _describe(source, found[0]), tensors, {**statistics, **config}, text)


def _describe(source: str, file: Path) -> str:
    # A local path is reduced to its name, because the card may be published.
    named = Path(source).name if Path(source).exists() else source
    parts = [named] if named == file.name else [named, file.name]
    return f"{', '.join(parts)}, sha256 {sha256(file)[:12]}"


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        return read_json(path, strict=False)
    except Absent as error:
        raise UserError(f"{source} has no {path.name}, so its shape is not known") from error
    except Unreadable as error:
        raise UserError(f"{source}: {path.name} is damaged: it {error.reason}") from error


def _tensors(path: Path, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors by name, and the state statistics that are saved with them."""
    if path.suffix == ".safetensors":
        try:
            return tensor_files.load(path), {}
        except Unreadable as error:
            raise UserError(f"{source}: {path.name} {error.reason}") from error
    tree = _unpickle(path, source)
    inner = next((tree[key] for key in NESTED if isinstance(tree.get(key), Mapping)), tree)
    # Data parallel training prefixes every name.
    named = {str(name).removeprefix("module."): value for name, value in inner.items()}
    views = {n: v for n, v in named.items() if isinstance(v, torch_views.INERT)}
    try:
        tensors = torch_views.tensors(views)
        statistics = {
            key: torch_views.numbers(tree[key], key)
            for key in STATISTICS
            if inner is not tree and key in tree
        }
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return tensors, statistics


def _unpickle(path: Path, source: str) -> Mapping[Any, Any]:
    try:
        tree = torch_files.load(path)
    except Damaged as error:
        reason = f"it is no PyTorch file, or is cut short ({str(error)[:80]})"
        raise UserError(f"{source}: {path.name} is not read: {reason}") from error
    except (UserError, OSError) as error:
        raise UserError(f"{source}: {path.name} is not read: {error}") from error
    if not isinstance(tree, Mapping):
        raise UserError(f"{source}: {path.name} holds a {type(tree).__name__}, no state dict")
    return tree


def read_vector(path: Path) -> np.ndarray:
    """The numbers in a `.npy` file, or in a text with or without commas and brackets."""
    require_file(path, "a .npy file or a text of numbers")
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            require(array.size <= MOST_STATES, f"{path} holds {array.size:,} numbers, no vector")
            return array.astype(np.float64).reshape(-1)
        return numbers(read_text(path))
    except (ValueError, OSError, EOFError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{path} holds no vector of numbers ({error})") from error


def numbers(text: str) -> np.ndarray:
    """`[1, 2.5 3]` -> [3]; ValueError for anything else."""
    return np.array([float(word) for word in re.sub(r"[\[\],]", " ", text).split()])


def card_statistics(card: str) -> dict[str, np.ndarray]:
    """State statistics from `mean = [...]` and `std = [...]` in a model card; {} without them."""
    found = {}
    for key, word in zip(STATISTICS, ("mean", "std"), strict=True):
        listed = re.search(rf"\b(?:state_)?{word}\s*[=:]\s*(?:[\w.]+\(\s*)?\[([^\[\]]*)\]", card)
        if listed:
            with contextlib.suppress(ValueError):  # "[...]" in prose: no statistic
                found[key] = numbers(listed[1])
    return found
