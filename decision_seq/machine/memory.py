"""Readable out-of-memory errors, and reuse of freed heap memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from decision_seq.types import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's numbers of mallopt's parameters
_RETAINED = 2**31 - 1  # bytes of freed memory, the most that mallopt accepts


def keep_freed() -> None:
    """Retain up to two gibibytes of freed heap memory, so that the next update reuses it.

    glibc returns large blocks to the system when they are freed, and the system clears every page
    again for the next allocation. That is thousands of page faults in an update of the paper's
    model, and 650,000 with a context of 500 and 16 windows, where they take 40 % of its time. Other
    C libraries are left unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # allocate large blocks from the heap too
        mallopt(_TRIM_THRESHOLD, _RETAINED)


@contextmanager
def large_enough(what: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError of class `kind`.

    what: ends the message "memory does not hold ...": the object, and the remedy.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        ours = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not ours and "DefaultCPUAllocator" not in str(error):  # it raises a plain RuntimeError
            raise
        first = " ".join(str(error).split())[:120]
        raise kind(f"memory does not hold {what} ({first})") from error
