"""A configuration described in words: its components, and the type, default and meaning of a key.

`train --help`, the reference pages, suggestions and shell completion are made from it. It reads the
registries when it is called, so that it knows the components of plugins.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import draccus

from decision_seq.config import field_docs, to_tree
from decision_seq.formatting import value_text

_NAME = "name"  # the key that chooses an entry of a registry
LABEL = "LABEL"  # stands for a key that the user chooses, in a mapping of components
_WORDS: dict[Any, list[str]] = {
    int: ["whole number"],
    float: ["number"],
    str: ["text"],
    bool: ["true", "false"],
    type(None): ["null"],
}


@dataclass(frozen=True)
class Key:
    """A key of a configuration, in words."""

    name: str
    """Its name with dots, such as `policy.planner.beams`."""
    kind: str
    """Type of its values, such as `whole number or null`."""
    default: str
    """Its default as YAML."""
    meaning: str
    """What it does, from the docstring of its field; empty where there is none."""
    choices: tuple[str, ...] = ()
    """Its values, where they are listed by the type or by a registry."""


@dataclass(frozen=True)
class Component:
    """A part of a configuration: a section, a registry, or an entry of a registry."""

    address: str
    """Its name in `train --help NAME`, such as `policy.tt`; empty for the whole configuration."""
    place: str
    """The key that holds it, such as `policy`; empty for the whole configuration."""
    meaning: str
    """What it is, in one or more sentences."""
    keys: tuple[Key, ...]
    """Its keys; of a registry, those of every entry."""
    entries: tuple[str, ...] = ()
    """Addresses of a registry's entries."""
    others: tuple[str, ...] = ()
    """Other keys that hold it or, for an entry of a registry, its registry."""
    parts: tuple[str, ...] = ()
    """Addresses of the components that it holds."""
    like: str = ""
    """Address of the component whose keys it has as well; empty for none."""
    own: tuple[Key, ...] = ()
    """The keys that differ from those of `like`; all keys where that is empty."""


def components(root: type) -> list[Component]:
    """The components of a configuration, the whole one first; each class appears once."""
    walk = _Walk()
    found = list(walk.section(root, "", "", _summary(root)))
    return [
        dataclasses.replace(one, others=tuple(dict.fromkeys(walk.others.get(one.place, ()))))
        for one in found
    ]


def find(found: Sequence[Component], name: str) -> list[Component] | list[Key]:
    """The components, or else the keys, that a name means; empty for none.

    name: an address, such as `policy.tt`; a key, such as `policy.planner.beams`, also by its
    component's address, `policy.tt.planner.beams`; or the last parts of one or several of these.
    """
    known = {one.address: one for one in found if one.address}
    for one in found:  # a registry comes before its entries, which have its place
        if one.place:
            known.setdefault(one.place, one)
    if name in known:
        return [known[name]]
    keys = keys_of(found)
    by_address = {
        _join(at, key.name.removeprefix(f"{one.place}.")): key
        for one in found
        for at in (one.address, *one.others)
        for key in one.keys
    }
    names = (name, f"{name}.{_NAME}")
    exact = [keys[one] for one in names if one in keys]
    exact += [by_address[one] for one in names if one in by_address]
    if exact:
        return exact[:1]
    ends = tuple(f".{one}" for one in names)
    near: dict[Key, None] = {key: None for at, key in keys.items() if at.endswith(ends)}
    near |= {key: None for at, key in by_address.items() if at.endswith(ends)}
    return [one for at, one in known.items() if at.endswith(ends)] or list(near)


def keys_of(found: Sequence[Component]) -> dict[str, Key]:
    """Every key of the components by name; of keys with the same name the first."""
    named: dict[str, Key] = {}
    for component in found:
        for key in component.keys:
            named.setdefault(key.name, key)
    return named


class _Walk:
    """The state of a walk through a configuration's classes: the addresses of those found."""

    def __init__(self) -> None:
        self.addresses: dict[type, str] = {}
        self.places: dict[type, str] = {}
        self.others: dict[str, list[str]] = {}  # a component's place -> its other places

    def section(
        self, cls: type, address: str, place: str, meaning: str, like: Component | None = None
    ) -> Iterator[Component]:
        """The component of a dataclass, then those that its fields hold."""
        self.addresses[cls] = address
        docs, hints = _docs(cls), get_type_hints(cls)
        keys, parts, inner = [], [], []
        for field in dataclasses.fields(cls):
            name, hint = _join(place, field.name), hints[field.name]
            held = held_class(hint)
            if held is None or not is_section(hint):
                keys.append(_key(name, hint, _default(field), docs.get(field.name, "")))
            if held is not None:
                known = held in self.addresses
                at = self.addresses[held] if known else self._address(held, address, name)
                parts.append(at)
                inside = name if held is hint else _join(name, LABEL)
                if not known:
                    self.addresses[held], self.places[held] = at, inside
                    inner.append((held, at, inside, docs.get(field.name, "")))
                elif inside != self.places[held]:
                    self.others.setdefault(self.places[held], []).append(inside)
        theirs = set(like.keys if like else ())
        own = tuple(key for key in keys if key not in theirs)
        yield Component(
            *(address, place, meaning, tuple(keys)),
            parts=tuple(dict.fromkeys(parts)),
            like=like.address if like and len(own) < len(keys) else "",
            own=own,
        )
        for held, at, inside, doc in inner:
            walk = self.registry if is_registry(held) else self.section
            yield from walk(held, at, inside, doc)

    def registry(self, cls: Any, address: str, place: str, meaning: str) -> Iterator[Component]:
        """The component of a registry with the keys of all entries, then the entries."""
        shared = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        docs, hints = _docs(cls) if shared else {}, get_type_hints(cls)
        keys = tuple(
            _key(_join(place, one.name), hints[one.name], _default(one), docs.get(one.name, ""))
            for one in shared
        )
        entries = cls.get_known_choices()
        addresses = {entry: f"{address}.{name}" for name, entry in entries.items()}
        base = Component(address, place, meaning, keys, tuple(addresses.values()), own=keys)
        yield base
        done = {cls: base}
        for entry, at in addresses.items():
            near = (done[parent] for parent in entry.__mro__[1:] if parent in done)
            like = next((one for one in near if one.keys), None)
            first, *rest = self.section(entry, at, place, _summary(entry), like)
            done[entry] = first
            yield first
            yield from rest

    def _address(self, held: type, address: str, name: str) -> str:
        """The address of a component that is found for the first time."""
        short = name.replace(f".{LABEL}", "")
        if is_registry(held) and short not in self.addresses.values():
            return short
        return _join(address, short.rpartition(".")[2])


def held_class(hint: Any) -> Any:
    """The class of the component that a key holds, alone or by label; None for plain values."""
    if get_origin(hint) is dict:
        hint = get_args(hint)[1]
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def is_section(hint: Any) -> bool:
    """Whether a key holds the keys of one fixed class: it has no value of its own."""
    return held_class(hint) is hint and not is_registry(hint)


def is_registry(cls: Any) -> bool:
    """Whether a class is the base of a registry, whose entry the key `name` chooses."""
    return (
        isinstance(cls, type)
        and issubclass(cls, draccus.ChoiceRegistry)
        and bool(cls.get_known_choices())
        and cls not in cls.get_known_choices().values()
    )


def kind_text(hint: Any) -> str:
    """A type in words: `int | None` -> `whole number or null`."""
    return either(_kinds(hint))


def either(words: Sequence[str]) -> str:
    """`a, b or c`."""
    *others, last = words
    if not others:
        return last
    return f"{', '.join(others)}{',' if ' or ' in others[-1] else ''} or {last}"


def _kinds(hint: Any) -> list[str]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [str(value) for value in inner]
    if origin in (Union, types.UnionType):
        return [word for part in inner for word in _kinds(part)]
    if origin in (tuple, list):
        several = either([f"{word}s" for word in _kinds(inner[0])])
        any_number = origin is list or inner[-1] is ...
        return [f"list of {several}" if any_number else f"list of {len(inner)} {several}"]
    if origin is dict:
        return ["components by label" if held_class(hint) else "mapping"]
    return _WORDS.get(hint) or [getattr(hint, "__name__", str(hint))]


def _key(name: str, hint: Any, default: Any, meaning: str) -> Key:
    held = held_class(hint)
    if held is hint and is_registry(hint):
        choices = tuple(hint.get_known_choices())
        chosen = value_text(_changes(hint, default))
        return Key(f"{name}.{_NAME}", either(choices), chosen, meaning, choices)
    listed = get_args(hint) if get_origin(hint) is Literal else ()
    text = "" if default is dataclasses.MISSING else value_text(default)
    return Key(name, kind_text(hint), text, meaning, tuple(map(str, listed)))


def _changes(registry: Any, component: Any) -> Any:
    """A component's name; with the values that differ from its class's defaults, if any do."""
    name = registry.get_choice_name(type(component))
    tree, plain = to_tree(component), to_tree(type(component)())
    changed = {key: value for key, value in tree.items() if value != plain[key]}
    return {_NAME: name, **changed} if changed else name


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.cache  # reading the source of a class takes milliseconds
def _docs(cls: type) -> dict[str, str]:
    """The fields' meanings; none where the source of a plugin's class cannot be read."""
    try:
        return {name: " ".join(text.split()) for name, text in field_docs(cls).items()}
    except (OSError, TypeError):
        return {}


def _summary(cls: type) -> str:
    """The first paragraph of a class's docstring; empty where it has none of its own."""
    text = cls.__dict__.get("__doc__") or ""
    if text.startswith(f"{cls.__name__}("):  # made by `dataclass`
        return ""
    return " ".join(text.strip().split("\n\n")[0].split())


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
