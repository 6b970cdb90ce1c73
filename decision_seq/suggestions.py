"""Suggestions for unknown keys of a configuration, and for unknown options of a command."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from decision_seq.aliases import ALIASES, EXAMPLES, Alias
from decision_seq.formatting import value_text
from decision_seq.types import UserError

MOST = 3  # names in a suggestion
ALIKE = 0.78  # likeness, of 1, from which a name is taken for a misspelling of another
OPTIONS = [name for name in EXAMPLES if name.startswith("--")]  # that a file's key may mean
ALL_KEYS = "`decision-seq train --help` lists all keys"


class Meant(NamedTuple):
    """What an unknown key may mean."""

    names: tuple[str, ...] = ()
    """Keys, sections, or options with their dashes; empty where nothing is near."""
    alias: Alias | None = None
    """The entry of the table that led to them."""


class UnknownKey(UserError):
    """A configuration has a key that does not exist; the message names the key that is meant.

    key: the unknown key with dots. known: all keys, with their defaults.
    """

    def __init__(self, key: str, known: Mapping[str, Any]) -> None:
        self.key, self.known = key, known
        super().__init__(f"config: unknown key {key}{self._hint(_in_yaml, OPTIONS)}")

    def as_option(self, given: str, options: Sequence[str]) -> UserError:
        """The error for the same key on the command line.

        given: the option as it was written; options: those of the command.
        """
        hint = self._hint(_on_command_line, options)
        return UserError(f"unknown option {given}{hint}")

    def _hint(self, text: Callable[[Meant, Mapping[str, Any]], str], options: Sequence[str]) -> str:
        meant = meaning(self.key, list(self.known), options)
        note = f" ({meant.alias.note})" if meant.alias and meant.alias.note else ""
        if meant.names:
            return f"; did you mean {text(meant, self.known)}{note}"
        if note:
            return f"; {note[2:-1]}"
        section = self.key.rpartition(".")[0]
        within = [name for name in self.known if section and name.startswith(f"{section}.")]
        return f"; there are {', '.join(within)}" if within else f"; {ALL_KEYS}"


def meaning(unknown: str, known: Sequence[str], options: Sequence[str] = ()) -> Meant:
    """What an unknown key may mean.

    unknown, known: names with dots, such as `policy.backbone.layers`; options: the command's.
    """
    unknown = unknown.lstrip("-")
    section, _, key = unknown.rpartition(".")
    within = [name for name in known if section and name.startswith(f"{section}.")]
    ends = _named(unknown, known) if section else []
    if len(ends) == 1:  # backbone.layers
        return Meant(tuple(ends))
    return (
        _meant(key, within)
        or _spelled_alike(key, within, section)
        or _in_section_alike(section, key, known)
        or _meant(key, known)
        or _spelled_alike(key, known)
        or Meant(tuple(near(f"--{unknown}", options)))
    )


def near(unknown: str, known: Sequence[str]) -> list[str]:
    """The known name that is spelled like an unknown one, in a list; empty for none."""
    return difflib.get_close_matches(unknown, known, 1, ALIKE)


def option_meant(unknown: str, options: Sequence[str]) -> str | None:
    """The option of a command that an unknown one means: `--rtg` -> `--target`; None for none."""
    word = plain(unknown.partition("=")[0])
    words = {plain(option): option for option in options}
    if word in words:
        return words[word]
    for alias in _aliases(word):
        names = [*alias.names.split(), alias.means, alias.means.rpartition(".")[2]]
        found = [words[plain(name)] for name in names if plain(name) in words]
        if found:
            return found[0]
    return next((words[name] for name in near(word, list(words))), None)


def plain(name: str) -> str:
    """A name in small letters, without dashes before it and with `_` between words."""
    return name.lstrip("-").replace("-", "_").lower()


def _aliases(word: str) -> list[Alias]:
    return [alias for alias in ALIASES if plain(word) in alias.names.split()]


def _meant(key: str, known: Sequence[str]) -> Meant | None:
    """The known names that end with the key, or with the name that it is an alias of."""
    same = _named(key, known) or _named(plain(key), known)
    whole = [name for name in same if name in (key, plain(key))]
    if whole or len(same) == 1:
        return Meant((*whole, *same)[:1])
    # `steps` is the last part of several names, and one of them is usually meant.
    for alias in _aliases(key) if known else ():
        names = _named(alias.means, known)
        if alias.means.startswith("--") or alias.means in names:
            names = [alias.means]
        if names or not alias.means:
            return Meant(tuple(names[:MOST]), alias)
    return Meant(tuple(same[:MOST])) if same else None


def _named(name: str, known: Sequence[str]) -> list[str]:
    return [one for one in known if name and (one == name or one.endswith(f".{name}"))]


def _in_section_alike(section: str, key: str, known: Sequence[str]) -> Meant | None:
    """The known name with the same last part and a section that is spelled alike."""
    sections = [name.rpartition(".")[0] for name in known if name.rpartition(".")[2] == key]
    return next((Meant((f"{one}.{key}",)) for one in near(section, sections) if one), None)


def _spelled_alike(key: str, known: Sequence[str], section: str = "") -> Meant | None:
    """The known names with a part after the section that is spelled like the key."""
    inner = [name.removeprefix(f"{section}.") for name in known]
    sections = {name.split(".")[0] for name in inner}
    parts = dict.fromkeys(part for name in inner for part in (name.split(".")[0], _last(name)))
    close = near(plain(key), list(parts))
    if not close:
        return None
    if close[0] in sections:
        return Meant((f"{section}.{close[0]}" if section else close[0],))
    return _meant(close[0], known)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _in_yaml(meant: Meant, known: Mapping[str, Any]) -> str:
    """`train.learning_rate? For example: train: {learning_rate: 1e-4}`"""
    first, *others = meant.names
    if first.startswith("--"):
        return f"the option {first} {EXAMPLES[first]}".rstrip() + "?"
    if others or first not in known:
        return f"{' or '.join(meant.names)}?"
    *sections, key = first.split(".")
    text = f"{key}: {_example(first, meant, known)}"
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    return f"{first}? For example: {text}"


def _on_command_line(meant: Meant, known: Mapping[str, Any]) -> str:
    """`--train.learning_rate 1e-4?`"""
    return " or ".join(_option(name, meant, known) for name in meant.names) + "?"


def _option(name: str, meant: Meant, known: Mapping[str, Any]) -> str:
    if name.startswith("--"):
        return f"{name} {EXAMPLES.get(name, '')}".rstrip()
    if name not in known:  # a section
        chosen = f"{name}.name"
        return _option(chosen, meant, known) if chosen in known else f"--{name}.KEY VALUE"
    return f"--{name} {shlex.quote(_example(name, meant, known))}"


def _example(name: str, meant: Meant, known: Mapping[str, Any]) -> str:
    """A value to show for a key: of the table, or else its default; for a switch, the other."""
    example = (meant.alias.example if meant.alias else "") or EXAMPLES.get(name, "")
    default = known[name]
    if example or default is None:
        return example or "VALUE"
    return value_text(not default if isinstance(default, bool) else default)
