"""Text from strangers (names of datasets, environments, runs), made harmless where it is shown.

A name may hold escape sequences of terminals, line breaks that forge a line, marks that reverse
text, images of Markdown or HTML, and formulas of matplotlib. Each function escapes for one place.
"""

from __future__ import annotations

import re
from typing import Any


def terminal(text: str, lines: bool = False) -> str:
    """Text for a terminal: characters that cannot be printed are shown as `\\x1b` or `\\u202e`.

    lines: leave line breaks and tabs, in a text of several lines whose names were escaped before.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (lines and character in "\n\t")
        else character.encode("unicode_escape").decode()
        for character in text
    )


def markdown(text: str) -> str:
    """Text for a line or a table's cell of Markdown, without markup, HTML or links."""
    escaped = re.sub(r"([\\`*\[\]<>|$~])", r"\\\1", terminal(text))
    return re.sub(r"(?i)\b(https?|ftp)(:)|\b(www)(\.)", r"\1\3\\\2\4", escaped)


def code(text: str) -> str:
    """Text as a code span of Markdown."""
    shown = terminal(text)
    ticks = "`" * (1 + _longest(shown))
    space = " " if shown[:1] == "`" or shown[-1:] == "`" else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def block(text: str, language: str) -> str:
    """Lines of text as a code block of Markdown."""
    shown = terminal(text, lines=True)
    ticks = "`" * max(3, 1 + _longest(shown))
    return f"{ticks}{language}\n{shown}\n{ticks}"


def _longest(text: str) -> int:
    """The length of the longest row of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def picture(text: str) -> str:
    """Text for a plot: matplotlib would set what stands between two `$` as a formula."""
    return terminal(text).replace("$", r"\$")


# TeX's own characters, and those that its oldest font encoding shows as others.
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "{''}"},
    **{"[": "{[}", "*": "{*}"},  # after a line break `\\` they would belong to it
}


def latex(text: str) -> str:
    """Text for LaTeX, without commands."""
    return "".join(_LATEX.get(character, character) for character in terminal(text))


def spreadsheet(text: str) -> str:
    """Text for a cell of a CSV file; a spreadsheet would run what begins as a formula does."""
    shown = terminal(text)
    return f"'{shown}" if shown.lstrip()[:1] in ("=", "+", "-", "@") else shown


def page(value: Any) -> Any:
    """A value for an HTML page, whose templates escape markup: text without control characters.

    Markup, whose names were escaped before, is left as it is.
    """
    return value if hasattr(value, "__html__") else terminal(str(value))
