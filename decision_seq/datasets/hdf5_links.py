"""Objects of an HDF5 file by their path, where no link leads to another file.

HDF5 follows external links without a word, so that a file could show the data of others, or wait
for a pipe.
"""

from __future__ import annotations

from typing import Any

from decision_seq.types import UserError

MOST_LINKS = 16


def find(file: Any, path: str) -> Any:
    """The object at the path; None if there is none, UserError if it lies in another file."""
    import h5py

    group, parts, links = file, path.split("/"), 0
    while parts:
        name = parts.pop(0)
        if name in ("", "."):
            continue
        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{path} lies in another file; give one file that holds its data")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > MOST_LINKS:
                raise UserError(f"{path} is a link that leads nowhere")
            group = file if link.path.startswith("/") else group
            parts = link.path.split("/") + parts
            continue
        group = group[name]
    return group


def dataset(file: Any, path: str) -> Any:
    """The dataset at the path, whose data lie in the file; None if there is none."""
    import h5py

    found = find(file, path)
    if not isinstance(found, h5py.Dataset):
        return None
    if found.is_virtual or found.external:
        raise UserError(f"{path} lies in other files; give one file that holds its data")
    return found


def stored_bytes(columns: Any, size: int) -> int:
    """Bytes that datasets take in a file of `size` bytes; what was never written takes none."""
    return min(sum(column.id.get_storage_size() for column in columns), size)
