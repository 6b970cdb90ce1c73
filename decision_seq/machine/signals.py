"""The signals that ask a process to stop."""

from __future__ import annotations

import signal

# Ctrl-C, those that schedulers send before pre-emption or at a limit of processor time, and the
# hang-up of a terminal.
STOPPING = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1),
    *(signal.SIGHUP, signal.SIGXCPU),
)


def is_ignored(number: signal.Signals) -> bool:
    """Whether the parent process had the signal ignored, as `nohup` does with the hang-up."""
    return signal.getsignal(number) is signal.SIG_IGN
