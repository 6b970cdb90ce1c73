"""Checks on a store's header, which may come from an untrusted source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _number(value: object) -> bool:
    """Whether a value is a finite number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53


def _text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _columns(value: object) -> bool:
    """Whether a value is name -> {dtype: text, shape: list of counts, sha256: text}.

    A column of frames has also block: count.
    """
    return isinstance(value, dict) and all(
        name.isidentifier()  # a name must not lead out of the store's folder
        and isinstance(facts, dict)
        and _text(facts.get("dtype"))
        and _text(facts.get("sha256"))
        and _count(facts.get("block", 1))
        and isinstance(facts.get("shape"), list)
        and all(map(_count, facts["shape"]))
        for name, facts in value.items()
    )


STATISTICS = ("observation_mean", "observation_std", "action_min", "action_max", "return_mean")


def _statistics(value: object) -> bool:
    """Whether a value has all STATISTICS, as numbers or (nested) lists of numbers."""

    def numeric(item: object, depth: int = 4) -> bool:
        if isinstance(item, list):
            return depth > 0 and all(numeric(part, depth - 1) for part in item)
        return _number(item)

    return (
        isinstance(value, dict)
        and all(key in value for key in STATISTICS)
        and all(map(numeric, value.values()))
        and _number(value["return_mean"])
    )


def _scores(value: object) -> bool:
    """Whether a value is [random, expert], two different numbers."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_number, value))
        and value[0] != value[1]
    )


def _optional(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


# Required entries of a header -> the check of each value.
HEADER: dict[str, Callable[[object], bool]] = {
    "name": _text,
    "source": lambda value: isinstance(value, dict) and _text(value.get("description")),
    "env_id": _optional(_text),
    "family": _optional(_text),
    "max_episode_steps": _optional(_count),
    "reference_scores": _optional(_scores),
    "transitions_in": _count,
    "has_timeouts": lambda value: isinstance(value, bool),
    "statistics": _statistics,
    "columns": _columns,
}


def _bounds(value: object) -> bool:
    """Whether a value is [low, high], lists of equally many numbers, or null where unbounded."""
    if not isinstance(value, list) or [type(part) for part in value] != [list, list]:
        return False
    low, high = value
    if len(low) != len(high) or not all(b is None or _number(b) for b in (*low, *high)):
        return False
    pairs = zip(low, high, strict=True)
    return all(least is None or most is None or least <= most for least, most in pairs)


MOST_STACK = 64
# Optional entries -> the check of each value; the comment is the default.
MAY_HOLD: dict[str, Callable[[object], bool]] = {
    "stack": lambda value: _count(value) and value <= MOST_STACK,  # type: ignore[operator] # 1
    "choices": _optional(_count),  # None
    "first_choice": lambda value: type(value) is int and abs(value) < 2**31,  # 0
    "action_bounds": _optional(_bounds),  # None
    "clipped": lambda value: isinstance(value, bool),  # False
}


def header_fault(header: dict[str, Any]) -> str | None:
    """The first error in a header; None for a valid one."""
    for key, holds in HEADER.items():
        if key not in header:
            return f"header.json lacks {key!r}"
        if not holds(header[key]):
            return f"header.json: {key!r} is malformed"
    for key, holds in MAY_HOLD.items():
        if key in header and not holds(header[key]):
            return f"header.json: {key!r} is malformed"
    return None
