"""What is too large for this machine is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from decision_seq.types import UserError


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
