"""StoreWriter: writes episodes to an EpisodeStore in bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from decision_seq.datasets.store.episode_store import FORMAT, EpisodeStore
from decision_seq.datasets.store.frames import FrameAppender, file_name
from decision_seq.datasets.store.header import header_fault
from decision_seq.datasets.store.source_files import sha256
from decision_seq.datasets.store.validate import checked, require_frames
from decision_seq.machine.files import temporary_folder
from decision_seq.types import Episode, UserError


class _Appender:
    """Writer that streams rows into a .npy file whose length is known only at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self.rows = 0
        self.row: tuple[tuple[int, ...], np.dtype] | None = None

    def append(self, array: np.ndarray) -> None:
        """Write rows [n, ...]."""
        if self.row is None:
            self.row = (array.shape[1:], array.dtype)
            self._write_header()
        self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def _write_header(self) -> None:
        # numpy pads its header so that a larger first axis fits in the same bytes.
        assert self.row is not None
        shape, dtype = (self.rows, *self.row[0]), self.row[1]
        header = {"shape": shape, "fortran_order": False, "descr": dtype.str}
        np.lib.format.write_array_header_1_0(self.file, header)

    def close(self) -> dict[str, Any]:
        """Finish the file -> the column's entry in the header."""
        assert self.row is not None
        start = self.file.tell() - self.rows * int(np.prod(self.row[0])) * self.row[1].itemsize
        self.file.seek(0)
        self._write_header()
        assert self.file.tell() == start, "the .npy header changed its length"
        self.file.close()
        return _facts(self.path, self.row[1], (self.rows, *self.row[0]))


def _facts(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    """A column's entry in the header."""
    return {"dtype": dtype.str, "shape": [*shape], "sha256": sha256(path)}


class _Moments:
    """Mean and variance of a stream of rows, merged block by block (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Include a block of rows [n, ...]."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        squares = ((rows - mean) ** 2).sum(0)
        total = self.count + len(rows)
        delta = mean - self.mean
        self.mean = self.mean + delta * (len(rows) / total)
        self.squares = self.squares + squares + delta**2 * (self.count * len(rows) / total)
        self.count = total

    @property
    def std(self) -> Any:
        """Population standard deviation."""
        return np.sqrt(self.squares / self.count)


class StoreWriter:
    """Writer of a store, episode by episode; the store appears at `path` only when complete.

    Use it as a context manager; an unfinished store is removed. With a `stack` above 1,
    observations are single frames [T, H, W] uint8 without a final one, and an environment shows
    `stack` of them at one step.
    """

    def __init__(self, path: Path, stack: int = 1) -> None:
        self.stack = stack
        self.path = Path(os.path.abspath(path))  # "new/.." names the folder above, not a new one
        self._require_free()
        self.opened = contextlib.ExitStack()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.partial = self.opened.enter_context(temporary_folder(self.path.parent))
        except OSError as error:
            raise UserError(
                f"cannot write a store at {self.path}: {error.strerror}; set DECISION_SEQ_DATA to a"
                " writable folder"
            ) from error
        self.columns: dict[str, _Appender | FrameAppender] = {}
        self.moments = _Moments()
        self.action_range: tuple[Any, Any] | None = None
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.ends: list[tuple[bool, bool]] = []

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for column in self.columns.values():
            with contextlib.suppress(OSError):  # on a full disk, flushing the buffer fails too
                column.file.close()
        self.opened.close()  # removes the folder, unless `finish` renamed it

    def _require_free(self) -> None:
        """Raise UserError unless the path is free or holds a store, which may be replaced."""
        if not os.path.lexists(self.path) or (self.path / "header.json").is_file():
            return
        if self.path.is_dir() and not self.path.is_symlink() and not any(self.path.iterdir()):
            return
        raise UserError(f"{self.path} is in the way and no episode store; move it elsewhere")

    def append(self, episode: Episode) -> None:
        """Add one whole episode; UserError if its arrays do not fit together or hold NaN."""
        name = f"episode {len(self.lengths)}"
        episode = checked(episode, name)
        if self.stack > 1:
            require_frames(episode, name)
        steps = len(episode)
        arrays = {
            "observations": episode.observations[:steps],
            "actions": episode.actions,
            "rewards": episode.rewards,
        }
        if episode.has_final_observation:
            arrays["final_observations"] = episode.observations[steps:]
        if self.lengths and arrays.keys() != self.columns.keys():
            raise UserError("some episodes have a final observation and some have not")
        for name, array in arrays.items():
            if name not in self.columns:
                self.columns[name] = self._appender(name)
            column = self.columns[name]
            if column.row not in (None, (array.shape[1:], array.dtype)):
                raise UserError(
                    f"episode {len(self.lengths)}: {name} of shape {array.shape[1:]} {array.dtype}"
                    f" after {column.row}"
                )
            try:
                column.append(array)
            except OSError as error:
                raise self._write_error(error) from error
        if self.stack == 1:
            self.moments.add(arrays["observations"])
        low, high = episode.actions.min(0), episode.actions.max(0)
        if self.action_range is not None:
            low = np.minimum(low, self.action_range[0])
            high = np.maximum(high, self.action_range[1])
        self.action_range = low, high
        self.returns.append(float(episode.rewards.sum(dtype=np.float64)))
        self.lengths.append(steps)
        self.ends.append((episode.terminated, episode.truncated))

    def _appender(self, name: str) -> _Appender | FrameAppender:
        if name == "observations" and self.stack > 1:
            return FrameAppender(self.partial / file_name(name))
        return _Appender(self.partial / f"{name}.npy")

    def finish(self, name: str, source: dict[str, Any], **facts: Any) -> EpisodeStore:
        """Write the header and rename the store to its path -> the open store.

        source: origin of the data, with a `description`; facts: the entries of `header.HEADER` on
        the task.
        """
        try:
            return self._finish(name, source, facts)
        except OSError as error:  # such as a full disk, which is not a fault of the source
            raise self._write_error(error) from error

    def _finish(self, name: str, source: dict[str, Any], facts: dict[str, Any]) -> EpisodeStore:
        if not self.lengths:
            raise UserError(f"{source['description']} holds no transition")
        ends = np.array(self.ends, bool)
        small = {
            "offsets": np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64),
            "terminated": ends[:, 0],
            "truncated": ends[:, 1],
        }
        assert self.action_range is not None
        low, high = self.action_range
        columns = {key: column.close() for key, column in self.columns.items()}
        frames = self.columns["observations"]
        moments = frames if isinstance(frames, FrameAppender) else self.moments
        for key, array in small.items():
            np.save(self.partial / f"{key}.npy", array)
            columns[key] = _facts(self.partial / f"{key}.npy", array.dtype, array.shape)
        header = {
            "format": FORMAT,
            "name": name,
            "source": source,
            "episodes": len(self.lengths),
            "transitions": int(sum(self.lengths)),
            "columns": columns,
            "statistics": {
                "observation_mean": np.asarray(moments.mean).tolist(),
                "observation_std": np.asarray(moments.std).tolist(),
                "action_min": low.tolist(),
                "action_max": high.tolist(),
                "return_mean": float(np.mean(self.returns)),
                "return_std": float(np.std(self.returns)),
                "return_min": float(np.min(self.returns)),
                "return_max": float(np.max(self.returns)),
            },
            "reference_scores": None,
            **facts,
        }
        if self.stack > 1:
            header["stack"] = self.stack
        fault = header_fault(header)
        if fault:  # the source's own facts are wrong; reading it again would not help
            raise UserError(f"{source['description']}: {fault.removeprefix('header.json: ')}")
        text = json.dumps(header, indent=1)
        (self.partial / "header.json").write_text(text, encoding="utf-8")
        if not self._same_store_exists(header):
            self._require_free()  # the path may have been taken while the data were collected
            if self.path.exists():
                shutil.rmtree(self.path)
            try:
                os.replace(self.partial, self.path)
            except OSError:
                if not self._same_store_exists(header):  # made between the check and the renaming
                    raise
        return EpisodeStore.open(self.path)

    def _write_error(self, error: OSError) -> UserError:
        return UserError(f"cannot write the store {self.path}: {error.strerror}; make room there")

    def _same_store_exists(self, header: dict[str, Any]) -> bool:
        """Whether another run has made the same store; it may be in use and is not replaced."""
        made = EpisodeStore.open_sound(self.path)
        return made is not None and made.header == header
