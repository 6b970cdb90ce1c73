"""Safetensors files, which may come from others: their header is checked before they are loaded.

A file begins with the header's length (uint64), then a JSON table of name -> dtype, shape and place
of the bytes. safetensors itself checks that the places fit the shapes and fill the file.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decision_seq.reading import SMALL, fault_of, open_file, parse_json, unreadable

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
METADATA = "__metadata__"


def shapes(path: Path) -> Shapes:
    """The shape of every tensor by name, from the header alone; Unreadable for a damaged one."""
    with open_file(path) as file:
        whole = os.fstat(file.fileno()).st_size
        size = int.from_bytes(file.read(8), "little")
        if size > SMALL:
            raise unreadable(path, f"is damaged (its header has more than {SMALL:,} bytes)")
        text = file.read(size)
    try:
        tree = parse_json(text.decode())
    except ValueError as error:
        raise unreadable(path, "is damaged (its header cannot be read)") from error
    found: Shapes = {}
    stored = 8 + size
    entries: dict[str, Any] = tree if isinstance(tree, dict) else {"": None}
    for name, facts in entries.items():
        if name == METADATA:
            continue
        sound = fault_of(facts, {"shape": list, "data_offsets": list}) is None
        numbers = [*facts["shape"], *facts["data_offsets"]] if sound else [-1]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise unreadable(path, f"is damaged (its header has no shape of {name!r})")
        found[name] = tuple(facts["shape"])
        stored = max(stored, 8 + size + numbers[-1])
    if whole != stored:
        raise unreadable(path, f"is damaged ({whole:,} bytes, its header says {stored:,})")
    if whole > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise unreadable(path, f"has {whole:,} bytes, which the memory here does not hold")
    return found


def elements(of: Shapes) -> int:
    """The number of elements of all tensors together."""
    return sum(math.prod(shape) for shape in of.values())


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; Unreadable for a damaged file, or for one of unknown kinds."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shapes(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise unreadable(path, f"is damaged ({' '.join(str(error).split())[:100]})") from error
