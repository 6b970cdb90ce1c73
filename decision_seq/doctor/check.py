"""What a check finds, and how the ranks come to find the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decision_seq.train import Ranks
from decision_seq.types import UserError

OK, WARNING, FAILED = "ok", "WARNING", "FAILED"
_SEVERITY = (OK, WARNING, FAILED)


@dataclass(frozen=True)
class Check:
    """state: ok, WARNING (a run would work, but) or FAILED; finding: one line."""

    name: str
    state: str
    finding: str


def everywhere(ranks: Ranks, name: str, act: Callable[[], Check]) -> Check:
    """`act` on every rank, then the worst of what they found, on all of them.

    No rank waits for another inside `act`, so one that fails leaves nobody hanging.
    """
    found = tried(name, act)
    said = [Check(name, *item) for item in ranks.gather([found.state, found.finding])]
    worst = max(range(len(said)), key=lambda rank: _SEVERITY.index(said[rank].state))
    where = f"rank {worst}: " if worst else ""
    return Check(name, said[worst].state, f"{where}{said[worst].finding}")


def tried(name: str, act: Callable[[], Check]) -> Check:
    """What `act` finds here; FAILED where it or the system refuses. Anything else is our bug."""
    try:
        return act()
    except UserError as error:
        return Check(name, FAILED, " ".join(str(error).split()))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Check(name, FAILED, f"{where}{error.strerror or error}")


def failed(checks: Sequence[Check]) -> bool:
    """Whether any of them failed."""
    return any(check.state == FAILED for check in checks)


def checks_text(checks: Sequence[Check]) -> str:
    """One line a check, in columns."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"{check.name.ljust(width)}  {check.state.ljust(len(WARNING))}  {check.finding}"
        for check in checks
    )


def duration(seconds: float) -> str:
    """A length of time, in the unit that suits it."""
    for unit, size, until in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 72 * 3600)):
        if seconds < until:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:,.1f} days"
