"""Target returns: numbers, or words that stand for a percentile of the data's returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real

import numpy as np

from decision_seq.config import require

# A raw return; or `max`, `median`, `q0` to `q100`: a percentile of the data's episode returns.
Target = float | str
LARGEST = 1e30  # still fits into float32 after division by a scale
WORDS = {"max": 100, "median": 50}


def percentiles(returns: np.ndarray) -> tuple[float, ...]:
    """The 0th to the 100th percentile of the episodes' returns, 101 numbers."""
    return tuple(float(f"{value:.7g}") for value in np.percentile(returns, range(101)))


def check_targets(targets: Sequence[Target], where: str) -> None:
    """UserError unless each is a number up to `LARGEST` or a word that `resolve` knows."""
    for target in targets:
        if isinstance(target, str):
            known = _percent(target) is not None
        else:
            number = isinstance(target, Real) and not isinstance(target, bool)
            known = number and abs(float(target)) <= LARGEST
        require(
            known,
            f"{where} {target!r} is no return; give a number, or max, median, q0 to q100 for a"
            " percentile of the data's returns",
        )


def resolve(targets: Sequence[Target], known: Sequence[float] | None) -> tuple[float, ...]:
    """Targets as raw returns, each once, in their order.

    known: the data's `percentiles`; UserError when needed and absent.
    """
    return tuple(dict.fromkeys(_returns(targets, known)))


def equal_targets(targets: Sequence[Target], known: Sequence[float] | None) -> str | None:
    """The line that says which targets are equal and so rolled out once; None where all differ."""
    named: dict[float, list[str]] = {}
    for target, value in zip(targets, _returns(targets, known), strict=True):
        named.setdefault(value, []).append(target if isinstance(target, str) else f"{target:g}")
    equal = [f"{' and '.join(names)} are {value:g}" for value, names in named.items() if names[1:]]
    return f"targets: {', '.join(equal)}; rolled out once" if equal else None


def _returns(targets: Sequence[Target], known: Sequence[float] | None) -> list[float]:
    found = []
    for target in targets:
        if isinstance(target, str):
            require(
                known is not None,
                f"target {target!r}: this checkpoint does not know the returns of its data; give"
                " a number",
            )
            assert known is not None
            percent = _percent(target)
            assert percent is not None, "see check_targets"
            found.append(known[percent])
        else:
            found.append(float(target))
    return found


def _percent(word: str) -> int | None:
    matched = re.fullmatch(r"q(\d{1,3})", word)
    percent = int(matched[1]) if matched else WORDS.get(word)
    return percent if percent is not None and percent <= 100 else None
