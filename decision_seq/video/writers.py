"""Films written frame by frame: mp4 through ffmpeg, else GIF."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from decision_seq.types import UserError


class Writer(Protocol):
    def write(self, frame: np.ndarray) -> None:
        """frame: [H, W, 3] uint8, always of one size."""

    def close(self) -> None: ...


def suffix() -> str:
    """Of the films written here: .mp4 where the `video` extra is installed."""
    return ".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".gif"


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when all is well, else it goes."""
    beside = path.with_name(f".partial-{path.name}")
    try:
        yield beside
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: what ffmpeg said, at length
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[-200:]
        raise UserError(f"cannot write {path}: {said}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


class Mp4:
    """H.264 by the ffmpeg that imageio-ffmpeg brings along."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.process: Any = None

    def write(self, frame: np.ndarray) -> None:
        from imageio_ffmpeg import write_frames

        height, width = (length // 2 * 2 for length in frame.shape[:2])  # H.264 wants even ones
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
    """Block by block as the format has it, so that no frame is kept."""

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
    """By the name's end: .mp4 or .gif."""
    kind: Any = Mp4 if path.suffix == ".mp4" else Gif
    return kind(path, fps)
