"""What is too large for this machine is said in one line; what is freed is used again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from decision_seq.types import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's names of what mallopt sets
_KEPT = 2**31 - 1  # bytes, the most that it takes


def keep_freed() -> None:
    """Let the memory of one update serve the next, up to two gibibytes of it.

    glibc gives large blocks back to the system as they are freed, which clears every page again for
    the next: thousands of page faults in an update of the paper's model, 650,000 with a context of
    500 and 16 windows, then 40 % of its time. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # all from the heap
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
