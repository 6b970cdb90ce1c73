"""Frames: single images, each stored once, in compressed blocks that are decoded on demand.

    observations.frames    the blocks one after another, each of BLOCK frames packed by LZ4; then
                           the end (uint64) and the CRC-32 (uint32) of every block

Measured on play of Pong, Breakout and Seaquest (84 x 84, windows of 33 frames, one core): LZ4
gives 8,400 to 17,000 windows a second at 117 to 269 bytes a frame, Zstandard half the bytes and
half the windows; a raw frame is 7,056 bytes. Longer blocks save 6 % and decode more unused frames.
"""

from __future__ import annotations

import math
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from decision_seq.datasets.store.column import Column, cannot_read, damaged
from decision_seq.datasets.store.source_files import sha256
from decision_seq.types import UserError

BLOCK = 16
# Windows are drawn uniformly, so the hit rate is the cached share: a tenth of 100,000 frames. A
# cache four times as large saves 1 of 5 ms for a batch of 32 windows; its update takes 700 ms.
CACHE_MEBIBYTES = 64
INDEX = np.dtype([("end", "<u8"), ("crc", "<u4")])
MOST_BLOCK_BYTES = 2**28  # LZ4's own limit is eight times as large


def file_name(column: str) -> str:
    """The name of a frame column's file."""
    return f"{column}.frames"


def codec() -> Any:
    """numcodecs' LZ4; UserError names the extra to install."""
    try:
        from numcodecs.lz4 import LZ4
    except ImportError as error:
        raise UserError(
            "frames are stored compressed by numcodecs, which is not installed; pip install"
            " 'decision-seq[atari]'"
        ) from error
    return LZ4()


class FrameColumn(Column):
    """Column of compressed blocks of frames, with a bounded cache of decoded blocks.

    It has no `array`: a million frames are 7 GB. StoreDamaged when it is opened and the file's
    length differs from its index, and on every read of a block that differs from what was written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], block: int) -> None:
        """path: the column's file; shape: [N, H, W] uint8; block: frames per block."""
        self.path, self.shape, self.dtype = path, shape, np.dtype(np.uint8)
        self.block = block
        self._codec = codec()
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError("it is no regular file")
            self._packed = np.asarray(np.memmap(path, np.uint8, mode="r"))
        except (OSError, ValueError, MemoryError) as error:  # absent, or empty
            raise cannot_read(path.parent, path.name, error) from error
        blocks = -(-len(self) // block)
        space = len(self._packed) - blocks * INDEX.itemsize
        if space < 0 or block * np.prod(shape[1:], dtype=float) > MOST_BLOCK_BYTES:
            raise damaged(path.parent, f"{path.name} is cut short")
        index = self._packed[space:].view(INDEX)
        self._ends = np.concatenate([[0], index["end"].astype(np.int64)])
        self._crcs = np.ascontiguousarray(index["crc"])
        if self._ends[-1] != space or (np.diff(self._ends) < 1).any():
            raise damaged(path.parent, f"{path.name} is cut short, or its index is damaged")
        self.limit(CACHE_MEBIBYTES)

    def limit(self, mebibytes: int) -> None:
        """Set the cache to so many MiB of decoded blocks, one block at least, and empty it."""
        size = self.block * int(np.prod(self.shape[1:]))
        blocks = len(self._crcs)
        slots = min(max((mebibytes << 20) // size, 1), blocks)
        self._slots = np.empty((slots, self.block, *self.shape[1:]), np.uint8)
        self._held = np.full(slots, -1)  # [slots] the block in each slot, -1 for none
        self._slot_of = np.full(blocks, -1)  # [blocks] the slot of each block, -1 for none
        self._used = np.zeros(slots, np.int64)  # [slots] time of the last use
        self._clock = 0

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows of any shape R -> [*R, H, W]."""
        rows = np.asarray(rows)
        flat = rows.reshape(-1)
        needed, which = np.unique(flat // self.block, return_inverse=True)
        if len(needed) > len(self._slots):  # the blocks do not fit into the cache together
            half = len(flat) // 2
            parts = self.take(flat[:half]), self.take(flat[half:])
            return np.concatenate(parts).reshape(*rows.shape, *self.shape[1:])
        slots = self._resident(needed)
        return self._slots[slots[which], flat % self.block].reshape(*rows.shape, *self.shape[1:])

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows start to start + length - 1 of every start [B] -> [B, length, H, W].

        After the last row, the last is repeated.
        """
        return self.take(np.minimum(starts[:, None] + np.arange(length), len(self) - 1))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Consecutive rows start to stop - 1 -> [stop - start, H, W]; the cache is not used."""
        first, last = start // self.block, -(-stop // self.block)
        decoded = np.empty(((last - first) * self.block, *self.shape[1:]), np.uint8)
        for at, block in enumerate(range(first, last)):
            self._decode(block, decoded[at * self.block : (at + 1) * self.block])
        return decoded[start - first * self.block : stop - first * self.block]

    def _resident(self, needed: np.ndarray) -> np.ndarray:
        """The slots [n] of the needed blocks; missing blocks replace the least recently used.

        The blocks are all different and fit into the cache.
        """
        self._clock += 1
        slots = self._slot_of[needed]
        self._used[slots[slots >= 0]] = self._clock
        absent = needed[slots < 0]
        if len(absent):
            for slot, block in zip(self._oldest(len(absent)), absent, strict=True):
                if self._held[slot] >= 0:
                    self._slot_of[self._held[slot]] = -1
                self._held[slot] = -1  # the slot is invalid until the block is decoded
                self._decode(int(block), self._slots[slot])
                self._held[slot], self._slot_of[block] = block, slot
                self._used[slot] = self._clock
        return self._slot_of[needed]

    def _oldest(self, count: int) -> np.ndarray:
        """The `count` least recently used slots."""
        return np.argpartition(self._used, count - 1)[:count]

    def _decode(self, block: int, out: np.ndarray) -> None:
        """Unpack a block into out [BLOCK, H, W]; the last block may fill only a part of it."""
        packed = self._packed[self._ends[block] : self._ends[block + 1]]
        out = out[: len(self) - block * self.block]
        # numcodecs' LZ4 begins with the size, which `decode` does not check.
        if zlib.crc32(packed.data) == self._crcs[block] and packed[:4].tobytes() == _size(out):
            try:
                self._codec.decode(packed, out)
                return
            except (RuntimeError, ValueError):  # invalid LZ4 with a matching checksum
                pass
        first = block * self.block
        what = f"{self.path.name} is damaged in rows {first} to {first + len(out) - 1}"
        raise damaged(self.path.parent, what)


def _size(array: np.ndarray) -> bytes:
    return array.nbytes.to_bytes(4, "little")


class FrameAppender:
    """Writer that streams frames into a column's file, block by block, and sums their pixels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.codec = codec()
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self.rows = 0
        self.row: tuple[tuple[int, ...], np.dtype] | None = None
        self.waiting = np.empty(0, np.uint8)  # [< BLOCK, H, W]
        self.index: list[tuple[int, int]] = []
        self.sum = self.squares = 0  # of all pixels, exact

    def append(self, frames: np.ndarray) -> None:
        """frames: [n, H, W] uint8."""
        if self.row is None:
            self.row = (frames.shape[1:], frames.dtype)
            self.waiting = frames[:0]
        missing = BLOCK - len(self.waiting)
        self._flush(np.concatenate([self.waiting, frames[:missing]]))
        for start in range(missing, len(frames), BLOCK):
            self._flush(frames[start : start + BLOCK])
        self.rows += len(frames)

    def _flush(self, frames: np.ndarray) -> None:
        """Write the frames if they fill a block; otherwise buffer them."""
        if len(frames) == BLOCK:
            self._write(frames)
            frames = frames[:0]
        self.waiting = frames.copy()  # a view would hold the whole episode

    def _write(self, frames: np.ndarray) -> None:
        packed = self.codec.encode(np.ascontiguousarray(frames))
        self.file.write(packed)
        self.index.append((self.file.tell(), zlib.crc32(packed)))
        pixels = frames.reshape(-1).astype(np.float64)
        self.sum += int(pixels.sum())
        self.squares += int(pixels @ pixels)

    @property
    def mean(self) -> float:
        """Mean of all pixels; valid after `close`."""
        return self.sum / self.pixels

    @property
    def std(self) -> float:
        """Population standard deviation of all pixels; valid after `close`."""
        return math.sqrt(self.squares * self.pixels - self.sum**2) / self.pixels

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        assert self.row is not None
        return self.rows * int(np.prod(self.row[0]))

    def close(self) -> dict[str, Any]:
        """Finish the file -> the column's entry in the header."""
        assert self.row is not None
        if len(self.waiting):
            self._write(self.waiting)
        self.file.write(np.array(self.index, INDEX).tobytes())
        self.file.close()
        return {
            "dtype": self.row[1].str,
            "shape": [self.rows, *self.row[0]],
            "block": BLOCK,
            "sha256": sha256(self.path),
        }
