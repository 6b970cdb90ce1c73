"""The result of a check, and its agreement between ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decision_seq.training import Ranks
from decision_seq.types import UserError

OK, WARNING, FAILED = "ok", "WARNING", "FAILED"
_SEVERITY = (OK, WARNING, FAILED)


@dataclass(frozen=True)
class Check:
    """The result of a check."""

    name: str
    """Name of the check."""
    state: str
    """`ok`, `WARNING` (a run would work, with a drawback) or `FAILED`."""
    finding: str
    """Explanation in one line."""


def everywhere(ranks: Ranks, name: str, act: Callable[[], Check]) -> Check:
    """Run `act` on every rank -> the worst result, on all ranks.

    `act` must not communicate with other ranks, so that a failing rank blocks no other.
    """
    found = tried(name, act)
    results = [Check(name, *item) for item in ranks.gather([found.state, found.finding])]
    worst = max(range(len(results)), key=lambda rank: _SEVERITY.index(results[rank].state))
    where = f"rank {worst}: " if worst else ""
    return Check(name, results[worst].state, f"{where}{results[worst].finding}")


def tried(name: str, act: Callable[[], Check]) -> Check:
    """Run `act` on this rank; UserError and OSError become FAILED. Other exceptions are bugs."""
    try:
        return act()
    except UserError as error:
        return Check(name, FAILED, " ".join(str(error).split()))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Check(name, FAILED, f"{where}{error.strerror or error}")


def failed(checks: Sequence[Check]) -> bool:
    """Whether any check failed."""
    return any(check.state == FAILED for check in checks)


def checks_text(checks: Sequence[Check]) -> str:
    """The results as aligned text, one line per check."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"{check.name.ljust(width)}  {check.state.ljust(len(WARNING))}  {check.finding}"
        for check in checks
    )


def duration(seconds: float) -> str:
    """A duration as text, in a suitable unit."""
    for unit, size, until in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 72 * 3600)):
        if seconds < until:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:,.1f} days"
