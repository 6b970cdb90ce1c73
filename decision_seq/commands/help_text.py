"""The text of `--help`, made from a parser's arguments: the same for every version of Python."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Iterator

WIDEST = 100  # columns, however wide the terminal is
NARROWEST = 40
COLUMN = 30  # at which the help of an argument begins, at most


def terminal_width() -> int:
    """The columns of the terminal, up to `WIDEST`; that where there is no terminal."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def help_text(parser: argparse.ArgumentParser, width: int) -> str:
    """All of a parser's help: usage, description, arguments by group, examples."""
    parts = [usage(parser, width), *_paragraph(parser.description, width)]
    for group in parser._action_groups:
        listed = [one for one in group._group_actions if one.help != argparse.SUPPRESS]
        rows = [row for action in listed for row in _rows(action)]
        if rows:
            verbs = isinstance(listed[0], argparse._SubParsersAction)
            title = "verbs" if verbs else group.title or "options"
            lines = [f"{title}:", *_paragraph(group.description, width)]
            parts.append("\n".join([*lines, *_table(rows, width)]))
    if parser.epilog:
        parts.append(parser.epilog)
    return "\n\n".join(parts) + "\n"


def usage(parser: argparse.ArgumentParser, width: int) -> str:
    """The line of usage: the arguments that have to be given."""
    words = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words.append(f"{action.metavar or '{' + ','.join(action.choices) + '}'} ...")
        elif not action.option_strings:
            words.append(_values(action))
        elif action.required:
            words.append(f"{action.option_strings[-1]} {_values(action)}".strip())
    start = f"usage: {parser.prog} "
    return "\n".join(
        textwrap.wrap(
            " ".join(["[options]", *words]),
            width,
            initial_indent=start,
            subsequent_indent=" " * min(len(start), 12),
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _rows(action: argparse.Action) -> Iterator[tuple[str, str]]:
    """How an argument is written, and its help; of subcommands a row each."""
    if isinstance(action, argparse._SubParsersAction):
        for verb in action._get_subactions():
            yield verb.dest, verb.help or ""
        return
    values = _values(action)
    if not action.option_strings:
        yield values, _help(action)
        return
    last = action.option_strings[-1]
    yield ", ".join([*action.option_strings[:-1], f"{last} {values}".strip()]), _help(action)


def _values(action: argparse.Action) -> str:
    """The values of an argument: `N`, `[N]`, `NAME ...`."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        name = f"{{{','.join(map(str, action.choices))}}}"
    elif isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    else:
        default = action.dest.upper() if action.option_strings else action.dest
        name = action.metavar or default
    if action.nargs == "?":
        return f"[{name}]"
    if action.nargs == "*":
        return f"[{name} ...]"
    if action.nargs == "+":
        return f"{name} [{name} ...]"
    return " ".join([name] * action.nargs) if isinstance(action.nargs, int) else name


def _help(action: argparse.Action) -> str:
    values = {**vars(action), "prog": ""}
    return (action.help or "") % values if "%" in (action.help or "") else action.help or ""


def _table(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Rows of two columns; a long first one has a line of its own."""
    rows = list(rows)
    column = min(max(len(left) for left, _ in rows) + 4, COLUMN, width // 2 - 8)
    for left, right in rows:
        start = f"  {left}".ljust(column)
        if len(start) > column or start[-1] != " ":
            yield start.rstrip()
            start = " " * column
        yield from textwrap.wrap(
            " ".join(right.split()),
            max(width, column + 20),
            initial_indent=start,
            subsequent_indent=" " * column,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start.rstrip()]


def _paragraph(text: str | None, width: int) -> list[str]:
    return ["\n".join(textwrap.wrap(" ".join(text.split()), width))] if text else []
