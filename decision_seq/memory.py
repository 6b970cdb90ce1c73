"""What is too large for this machine is said in one line; what is freed is used again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from decision_seq.types import UserError

# glibc's mallopt: its names, and the most that it takes for the second.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _FROM_THE_HEAP = 2**30, 32 * 2**20  # bytes


def keep_freed() -> None:
    """Let the memory of one update serve the next, up to a gibibyte of it.

    glibc gives blocks of this size back to the system as they are freed, which clears every page
    again for the next: thousands of page faults an update of the paper's model. Other C libraries
    are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _FROM_THE_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT)


@contextmanager
def large_enough(what: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """A UserError of this kind where memory runs out; what: it does not hold, and the mend."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        ours = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not ours and "DefaultCPUAllocator" not in str(error):  # has no error of its own
            raise
        first = " ".join(str(error).split())[:120]
        raise kind(f"memory does not hold {what} ({first})") from error
