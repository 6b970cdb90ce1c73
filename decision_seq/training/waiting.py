"""The wait for the other processes of a launch, which may never come."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from decision_seq.config import require

ANNOUNCE_SECONDS = 8.0  # a launch takes one or two where all processes are there
LIMIT = "DECISION_SEQ_LAUNCH_SECONDS"


def limit() -> float:
    """Seconds to wait for the other processes, ten minutes by default."""
    text = os.environ.get(LIMIT, "600")
    require(
        text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0,
        f"the environment's {LIMIT} {text[:20]!r} is no number of seconds; unset it",
    )
    return float(text)


@contextmanager
def announced() -> Iterator[None]:
    """Context that prints what it waits for, where the other processes do not come soon."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield
        return
    unknown: list[str] = []
    came = threading.Event()

    def resolve() -> None:
        address = os.environ.get("MASTER_ADDR")
        if address is None:  # the launch is refused for it
            return
        try:
            socket.getaddrinfo(address, None)
        except (OSError, UnicodeError):
            unknown.append(" (no machine is known by that name)")

    def announce() -> None:
        # On a thread of its own, because the lookup of a name has no time limit.
        threading.Thread(target=resolve, daemon=True).start()
        if not came.wait(ANNOUNCE_SECONDS):
            line = f"waiting for the other processes of this launch{''.join(unknown)}: {whom()}\n"
            with suppress(OSError, ValueError):  # nobody reads it
                sys.stderr.write(line)

    threading.Thread(target=announce, daemon=True).start()
    try:
        yield
    finally:
        came.set()


def whom() -> str:
    """What the environment's variables say of the launch, and how to be rid of them."""
    env = os.environ
    where = f"{env.get('MASTER_ADDR')}:{env.get('MASTER_PORT', '29500')}"
    return (
        f"this is process {env.get('RANK')} of {env.get('WORLD_SIZE')}, which meet at {where}; if"
        " these variables are left from another job, run `unset WORLD_SIZE RANK LOCAL_RANK"
        " MASTER_ADDR MASTER_PORT`"
    )
