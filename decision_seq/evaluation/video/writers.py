"""Writers of films, frame by frame: mp4 through ffmpeg, else GIF."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from decision_seq.machine.files import replacing
from decision_seq.types import UserError


class Writer(Protocol):
    def write(self, frame: np.ndarray) -> None:
        """Append a frame [H, W, 3] uint8; all frames of a film have one size."""

    def close(self) -> None: ...


def suffix() -> str:
    """The suffix of films: .mp4 where the `video` extra is installed, else .gif."""
    return ".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".gif"


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` on success and deleted on failure."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except (OSError, RuntimeError) as error:  # RuntimeError: ffmpeg's long message
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[-200:]
        raise UserError(f"cannot write {path}: {reason}") from error


class Mp4:
    """A writer of H.264 video, with the ffmpeg that is part of imageio-ffmpeg."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.process: Any = None

    def write(self, frame: np.ndarray) -> None:
        from imageio_ffmpeg import write_frames

        height, width = (length // 2 * 2 for length in frame.shape[:2])  # H.264 needs even sizes
        frame = np.ascontiguousarray(frame[:height, :width])
        if self.process is None:
            size = (width, height)
            self.process = write_frames(
                str(self.path), size, fps=self.fps, quality=7, macro_block_size=2
            )
            self.process.send(None)
        self.process.send(frame)

    def close(self) -> None:
        if self.process is not None:
            self.process.close()


class Gif:
    """A writer of GIF blocks, one frame at a time, so that no frame stays in memory."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.milliseconds = path, round(1000 / fps)
        self.file: Any = None

    def write(self, frame: np.ndarray) -> None:
        from PIL import GifImagePlugin, Image

        image = Image.fromarray(frame).quantize(128)
        if self.file is None:
            self.file = open(self.path, "wb")  # noqa: SIM115 (closed by `close`)
            image.info["loop"] = 0
            self.file.write(b"".join(GifImagePlugin.getheader(image)[0]))
        blocks = GifImagePlugin.getdata(
            image, duration=self.milliseconds, include_color_table=True, disposal=1
        )
        self.file.write(b"".join(blocks))

    def close(self) -> None:
        if self.file is not None:
            self.file.write(b";")
            self.file.close()


def open_writer(path: Path, fps: float) -> Writer:
    """The writer for the suffix of `path`: .mp4 or .gif."""
    kind: Any = Mp4 if path.suffix == ".mp4" else Gif
    return kind(path, fps)
