"""Episodes of a Minari dataset, read from its files: HDF5, Arrow or Parquet.

The files are read directly. Minari's own classes would follow links into other files, read infos
that are not needed, and hand any picture to any decoder.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.datasets.d4rl.layout import refuse_bomb
from decision_seq.datasets.hub.columns import is_list, list_lengths
from decision_seq.datasets.store.source_files import require_file
from decision_seq.envs.observations import kind
from decision_seq.types import UserError

MAIN_FILE = "main_data.hdf5"
SIDE = 32  # pixels; Minari stores smaller arrays as they are
MOST_HOPS = 8  # from link to link


@dataclass(frozen=True)
class RawEpisode:
    """One episode as stored: values by entry of their space, [T + 1, ...] or [T, ...]."""

    id: int
    observations: Any
    actions: Any
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def is_jpeg(space: Any) -> bool:
    """Whether Minari stores arrays of this space as JPEG pictures, unless told otherwise."""
    if kind(space) != "Box" or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    large = min(space.shape[:2]) >= SIDE
    return bool(large and (space.low == 0).all() and (space.high == 255).all())


def holds_jpeg(space: Any) -> bool:
    """Whether Minari stores the space, or any entry of it, as JPEG pictures."""
    if kind(space) in ("Dict", "Tuple"):
        entries = space.spaces.values() if kind(space) == "Dict" else space.spaces
        return any(map(holds_jpeg, entries))
    return is_jpeg(space)


class Hdf5Episodes:
    """Episodes in Minari's `main_data.hdf5`; UserError for links into other files."""

    def __init__(self, data: Path, jpeg: bool) -> None:
        import h5py

        self.path, self.jpeg = data / MAIN_FILE, jpeg
        require_file(self.path, f"Minari's {MAIN_FILE}")
        self.file = h5py.File(self.path)
        self.bytes, self.read = self.path.stat().st_size, 0

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def episodes(self, count: int, observation_space: Any, action_space: Any) -> Iterator[Any]:
        """Episodes 0 to count - 1."""
        for index in range(count):
            group = self._member(self.file, f"episode_{index}")
            flags = (self._array(group, key) for key in ("rewards", "terminations", "truncations"))
            yield RawEpisode(
                index,
                self._values(group, "observations", observation_space),
                self._values(group, "actions", action_space),
                *flags,
            )

    def plain(self, name: str) -> list[Any] | None:
        """The datasets `name` of every episode, unread; None where one is no plain array."""
        import h5py

        found = [self._member(self._member(self.file, key), name) for key in self.file]
        return found if all(isinstance(one, h5py.Dataset) for one in found) else None

    def _values(self, group: Any, name: str, space: Any) -> Any:
        """The values in the space, of the member `name` of a group."""
        if kind(space) in ("Dict", "Tuple"):
            inner = self._member(group, name)
            if kind(space) == "Dict":
                return {k: self._values(inner, k, s) for k, s in space.spaces.items() if _needed(s)}
            return tuple(
                self._values(inner, f"_index_{i}", s) if _needed(s) else None
                for i, s in enumerate(space.spaces)
            )
        array = self._array(group, name)
        return _pictures(array, space) if self.jpeg and is_jpeg(space) else array

    def _array(self, group: Any, name: str) -> np.ndarray:
        import h5py

        found = self._member(group, name)
        if not isinstance(found, h5py.Dataset):
            raise UserError(f"{found.name} is no array")
        if found.is_virtual or found.external:
            raise UserError(f"{found.name} lies in other files; give one that holds its data")
        self.read += found.nbytes
        refuse_bomb(self.bytes, self.read)
        return found[()]

    def _member(self, group: Any, name: str, hops: int = MOST_HOPS) -> Any:
        """A member of a group; links are followed within the file alone, all hops of them."""
        import h5py

        for part in name.split("/"):
            if not isinstance(group, h5py.Group):
                raise UserError(f"{group.name} is no group")
            link = group.get(part, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise UserError(f"{group.name}/{part} lies in another file; give one with its data")
            if not isinstance(link, h5py.SoftLink):
                group = group[part]
            elif hops == 0:
                raise UserError(f"{group.name}/{part} is a link that leads nowhere")
            else:
                start = self.file if link.path.startswith("/") else group
                group = self._member(start, link.path.strip("/"), hops - 1)
        return group


class ArrowEpisodes:
    """Episodes in Minari's Arrow or Parquet files, a folder each."""

    def __init__(self, data: Path, jpeg: bool, data_format: str) -> None:
        self.data, self.jpeg, self.format = data, jpeg, data_format
        self.bytes, self.read = 0, 0

    def close(self) -> None:
        """Do nothing: a file is open only while it is read."""

    def plain(self, name: str) -> list[Any] | None:
        """None: the shapes of arrays are known by their space alone."""
        return None

    def episodes(self, count: int, observation_space: Any, action_space: Any) -> Iterator[Any]:
        """Episodes 0 to count - 1."""
        for index in range(count):
            table = self._table(index)
            steps = table.num_rows - 1  # the last row has an observation only
            flags = (
                table["rewards"].to_numpy(),
                table["terminations"].to_numpy(),
                table["truncations"].to_numpy(),
            )
            yield RawEpisode(
                index,
                self._values(table["observations"].combine_chunks(), observation_space),
                self._values(table["actions"].slice(0, steps).combine_chunks(), action_space),
                *(values[:steps] for values in flags),
            )

    def _table(self, index: int) -> Any:
        import pyarrow.dataset

        folder = self.data / str(index)
        files = sorted(folder.glob(f"*.{self.format}"))
        for file in files:
            require_file(file, f"a file of {self.format}")  # a pipe would block
        if not files:
            raise UserError(f"{folder} holds no .{self.format} file")
        columns = ["observations", "actions", "rewards", "terminations", "truncations"]
        found = pyarrow.dataset.dataset([str(f) for f in files], format=self.format)
        self.bytes += sum(file.stat().st_size for file in files)
        row = sum(_row_bytes(found.schema.field(name).type) for name in columns)
        self.read += found.count_rows() * row
        refuse_bomb(self.bytes, self.read)
        table = found.to_table(columns=columns)
        table.validate(full=True)  # offsets and indices may be forged
        return table

    def _values(self, column: Any, space: Any) -> Any:
        what = kind(space)
        if what == "Dict":
            entries = space.spaces.items()
            return {k: self._values(column.field(k), s) for k, s in entries if _needed(s)}
        if what == "Tuple":
            return tuple(
                self._values(column.field(str(i)), s) if _needed(s) else None
                for i, s in enumerate(space.spaces)
            )
        if self.jpeg and is_jpeg(space):
            return _pictures(column.to_pylist(), space)
        if what == "Discrete":
            return column.to_numpy(zero_copy_only=False)
        return _listed(column, space)


def _row_bytes(kind: Any) -> int:
    """A lower bound of the bytes of one row of an Arrow type."""
    import pyarrow.types as types

    if types.is_fixed_size_list(kind):
        return kind.list_size * _row_bytes(kind.value_type)
    if types.is_struct(kind):
        return sum(_row_bytes(field.type) for field in kind)
    return kind.bit_width // 8 if types.is_primitive(kind) else 0


def _listed(column: Any, space: Any) -> np.ndarray:
    """[T, *shape] of a column of lists; UserError unless each list fills the space's shape."""
    size = int(np.prod(space.shape))
    if not is_list(column.type):
        raise UserError(f"a column of {space} holds {column.type}; lists are needed")
    lengths = list_lengths(column)
    if column.null_count or (lengths != size).any():
        raise UserError(f"a column of {space} has rows that are not {size} numbers")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), *space.shape)


def _needed(space: Any) -> bool:
    """Whether any of a space's values are read: text is left out."""
    return kind(space) != "Text"


def _pictures(stored: Any, space: Any) -> np.ndarray:
    """JPEG pictures decoded, [T, *shape] uint8; the size of each is checked before it is."""
    from PIL import Image

    found = np.empty((len(stored), *space.shape), np.uint8)
    for at, content in enumerate(stored):
        picture = Image.open(io.BytesIO(bytes(content)), formats=("JPEG",))
        shape = (picture.height, picture.width, *((3,) if picture.mode == "RGB" else ()))
        if shape != space.shape:
            raise UserError(f"a picture has shape {shape}; its space has {space.shape}")
        found[at] = np.asarray(picture)
    return found


def open_episodes(path: Path, metadata: dict[str, Any]) -> Hdf5Episodes | ArrowEpisodes:
    """The episodes of the dataset in the folder `path`."""
    jpeg = bool(metadata.get("jpeg_encoding", True))
    if metadata["data_format"] == "hdf5":
        return Hdf5Episodes(path / "data", jpeg)
    return ArrowEpisodes(path / "data", jpeg, metadata["data_format"])
