"""Text of numbers, errors and results, for tables, reports, plots, messages and files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from decision_seq.types import UserError


def number_text(
    value: float, decimals: int = 1, significant: int = 2, sign: str = "", group: str = ","
) -> str:
    """A number with `decimals` decimals, and with more where it is small.

    Decimals are added until `significant` digits are shown; 0 keeps its plain form. sign: `+` to
    write the sign of positive numbers too; group: separator of thousands, "," or "".

    43.21 -> 43.2, -0.48 -> -0.48, 0.0001 -> 0.0001, 0.00000012 -> 1.2e-07, 0 -> 0.0
    """
    plain = f"{value:{sign}{group}.{decimals}f}"
    if value == 0 or not math.isfinite(value):
        return plain.replace("-", "") if value == 0 else plain
    exponent = math.floor(math.log10(abs(value)))
    needed = significant - 1 - exponent  # decimals that show so many significant digits
    if needed <= decimals:
        return plain
    if exponent < -4:
        return f"{value:{sign}.{significant}g}"
    text = f"{value:{sign}.{needed}f}"
    whole, _, digits = text.partition(".")
    digits = digits.rstrip("0").ljust(decimals, "0")
    return f"{whole}.{digits}" if digits else whole


def interval_text(interval: tuple[float, float] | None, decimals: int = 1, group: str = "") -> str:
    """`[41.0, 45.4]`; `-` where there is no interval."""
    if interval is None:
        return "-"
    low, high = (number_text(end, decimals, group=group) for end in interval)
    return f"[{low}, {high}]"


def spread_text(mean: float, deviation: float, group: str = ",") -> str:
    """`43.2 ± 1.5`, of a mean and its standard deviation."""
    return f"{number_text(mean, group=group)} ± {number_text(deviation, group=group)}"


def target_text(target: float | None) -> str:
    """A target return as it is printed; `-` for None, of an unconditioned policy."""
    return "-" if target is None else number_text(target, 0, 3)


def value_text(value: Any) -> str:
    """A plain value as YAML on one line; small numbers as 1e-4."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {value_text(part)}' for key, part in value.items())}}}"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, _, power = repr(value).partition("e")
        if not power:  # 0.0001, as Python writes it
            digits, _, power = f"{value:.16e}".partition("e")
        return f"{float(digits):.15g}e{int(power)}"
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]


def message_of(error: BaseException) -> str:
    """An error's message on one line; empty where the error fails to give one."""
    try:
        text = str(error)
    except Exception:  # the class of the error is the code of others
        return ""
    return " ".join(text.split())


def error_text(error: BaseException, most: int = 200) -> str:
    """An error's message on one line; its type where it has no message."""
    return message_of(error)[:most] or type(error).__name__


# Numbers that argparse takes for options, because it knows negative ones as -1 and -1.5 only.
_NEGATIVE = re.compile(r"-(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|-(inf|infinity|nan)", re.IGNORECASE)


def is_negative(text: str) -> bool:
    """Whether a command line's argument is a negative number."""
    return _NEGATIVE.fullmatch(text) is not None


def json_text(value: Any, indent: int | None = 1) -> str:
    """Results as JSON; UserError for NaN or an infinity, which JSON does not have."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError as error:
        name, number = next(_not_finite(value), ("", None))
        if number is None:  # another fault, such as a value that holds itself
            raise
        raise UserError(
            f"{name} is {number}, not a finite number, so it is not written; look for extreme"
            " rewards, observations or weights"
        ) from error


def _not_finite(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Name and value of each NaN and infinity in a tree: `targets.0.return_mean`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield name or "the result", value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(part, f"{name}.{key}" if name else str(key))
