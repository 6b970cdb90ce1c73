"""The part of `train --help` about the configuration: its keys by component, and the recipes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from decision_seq.components import Component, Key, components, find, keys_of
from decision_seq.suggestions import ALL_KEYS, meaning
from decision_seq.types import UserError

COLUMNS = (32, 13)  # of a key's name and default; its type may take the rest of the line


def help_parts(base: str, name: str, width: int) -> Iterator[str]:
    """The text of `train --help NAME`; without a name, `base` and the list of everything.

    The keys come last: their classes take seconds to import.
    """
    if name:
        yield named_text(described(), name, width)
        return
    yield f"{base}\n{recipes_text(width)}\n"
    yield keys_text(described(), width)


def help_tree(name: str) -> list[dict[str, Any]]:
    """The same facts as plain values, for JSON: components with their keys."""
    from dataclasses import asdict

    found = described()
    chosen = _named(found, name) if name else found
    return [asdict(one) for one in chosen]


def described() -> list[Component]:
    """The components of a run's configuration, those of plugins too."""
    from decision_seq.runs.resolve import Config

    return components(Config)


def recipes_text(width: int) -> str:
    """The recipes by name, with a line each."""
    from decision_seq.recipes import description, recipes

    known = recipes()
    column = max(map(len, known), default=0)
    lines = [
        line
        for name, path in known.items()
        for line in _hanging(f"  {name.ljust(column)}  ", description(path)[0], width)
    ]
    return "\n".join(["recipes (--config NAME):", *lines])


def keys_text(found: Sequence[Component], width: int) -> str:
    """Every key of the configuration, with the first sentence of its meaning."""
    about = (
        "Every key is given as --KEY VALUE, or in a YAML file by --config. Meanings are cut to"
        " their first sentence; `decision-seq train --help NAME` shows a component or a key in"
        " full, such as policy.tt, train or train.learning_rate."
    )
    lines = ["configuration:", *_hanging("  ", about, width), "", _row("KEY", "DEFAULT", "TYPE")]
    for one in found:
        lines += ["", *_head(one, width)]
        for key in one.own:
            lines += _entry(key, first_sentence(key.meaning), width)
    return "\n".join(lines)


def named_text(found: Sequence[Component], name: str, width: int) -> str:
    """One component with all its keys, or one key; UserError for an unknown name."""
    lines: list[str] = []
    for one in _named(found, name):
        lines += [""] if lines else []
        if isinstance(one, Key):
            holders = [holder.address for holder in found if one in holder.own]
            lines += [f"{', '.join(holders) or 'the run'}:", *_entry(one, one.meaning, width)]
            continue
        lines += _head(one, width, whole=True)
        if one.keys:
            lines += ["", _row("KEY", "DEFAULT", "TYPE")]
        for key in one.keys:
            lines += _entry(key, key.meaning, width)
        lines += _listed(found, "one of", one.entries, width)
        lines += _listed(found, "parts", one.parts, width)
    return "\n".join(lines)


def _named(found: Sequence[Component], name: str) -> list[Component] | list[Key]:
    chosen = find(found, name)
    if chosen:
        return chosen
    meant = meaning(name, [*keys_of(found), *(one.address for one in found if one.address)]).names
    hint = f"did you mean {' or '.join(meant)}?" if meant else ALL_KEYS
    raise UserError(f"no component or key is called {name!r}; {hint}")


def _head(one: Component, width: int, whole: bool = False) -> list[str]:
    """A component's first lines: its name, and what it is."""
    name = one.address or "the run"
    if one.entries:
        text = f"{one.meaning} One of {', '.join(map(_last, one.entries))}."
    elif whole or not one.address:
        text = one.meaning
    else:
        text = first_sentence(one.meaning)
    if one.like and not whole:
        text += f" Has the keys of {one.like} too."
    if one.others and one.entries:
        text += f" The same for {', '.join(one.others)}."
    return _hanging(f"{name}: ", text, width, "  ")


def _listed(
    found: Sequence[Component], title: str, addresses: Sequence[str], width: int
) -> Iterator[str]:
    """The components at the addresses, with a line each."""
    if not addresses:
        return
    named = {one.address: one for one in found}
    column = max(map(len, addresses))
    yield from ("", f"{title}:")
    for address in addresses:
        text = first_sentence(named[address].meaning)
        yield from _hanging(f"  {address.ljust(column)}  ", text, width)


def _entry(key: Key, text: str, width: int) -> list[str]:
    """A key's name, default and type, and its meaning below them."""
    start, column = _row(key.name, key.default, ""), len(_row("", "", ""))
    if len(start) == column:
        lines = _hanging(start, key.kind, width)
    else:  # a long default: the type has a line of its own
        lines = _hanging(_row(key.name, None, ""), key.default, width)
        lines += _hanging(" " * column, key.kind, width)
    return [*lines, *_hanging("        ", text or "(no description)", width)]


def _row(name: str, default: str | None, kind: str) -> str:
    columns = [name.ljust(COLUMNS[0])]
    columns += [] if default is None else [default.ljust(COLUMNS[1])]
    return f"    {'  '.join(columns)}  {kind}"


def _hanging(start: str, text: str, width: int, indent: str | None = None) -> list[str]:
    """Text wrapped after `start`; the later lines begin below it, or at `indent`."""
    return textwrap.wrap(
        text,
        max(width, len(start) + 20),
        initial_indent=start,
        subsequent_indent=" " * len(start) if indent is None else indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def first_sentence(text: str) -> str:
    """The first sentence of a text."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`(])", text, maxsplit=1)[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
