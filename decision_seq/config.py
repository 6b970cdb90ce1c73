"""Configurations: YAML files and dotted overrides, parsed into frozen dataclasses.

A component's configuration is defined in the module of the component. Where one of several
components may be chosen (a policy, a backbone, a conditioning) the base class is a
`draccus.ChoiceRegistry` and the key `name` chooses:

    policy: {name: dt, context_length: 20, backbone: {name: gpt, layers: 3}}

An unknown key, a value of the wrong type or an unreadable file raises `UserError`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import draccus
import yaml

from decision_seq.machine.files import replacing
from decision_seq.reading import YAML_BYTES, Unreadable, parse_yaml, read_text
from decision_seq.suggestions import UnknownKey
from decision_seq.types import UserError

Config = TypeVar("Config")

# draccus selects a class by this key; ours is `name`, the word the field uses.
_NAME, _DRACCUS_KEY = "name", "type"


def _rename(tree: Any, old: str, new: str) -> Any:
    if isinstance(tree, dict):
        return {
            (new if key == old else key): _rename(value, old, new) for key, value in tree.items()
        }
    return tree


def _merge(into: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge `other` over `into`, key by key; a different `name` replaces the whole component."""
    merged = dict(into)
    for key, value in other.items():
        mine = merged.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            replaced = _NAME in value and value[_NAME] != mine.get(_NAME, value[_NAME])
            merged[key] = value if replaced else _merge(mine, value)
        else:
            merged[key] = value
    return merged


def read_yaml(path: Path, within: Path | None = None) -> dict[str, Any]:
    """The mapping in a YAML file; UserError when it is missing, unreadable or no mapping.

    within: a folder that links must not leave, see `reading.open_file`.
    """
    try:
        tree = parse_yaml(read_text(path, YAML_BYTES, within))
    except Unreadable as error:
        raise UserError(f"config {error}; give the path of a YAML file") from error
    except ValueError as error:
        raise UserError(f"config {path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"config {path} holds no mapping of keys to values")
    return tree


def override(dotted: str, text: str) -> dict[str, Any]:
    """`train.steps`, `"500"` -> `{"train": {"steps": 500}}`; the text is read as YAML.

    A mapping has to be in braces; other text that YAML would parse as a mapping stays text.
    """
    try:
        value = parse_yaml(text)
    except ValueError as error:
        shown = text if len(text) <= 80 else f"{text[:80]}..."
        raise UserError(
            f"--{dotted}: cannot read the value {shown!r} ({error}); quote it as YAML"
        ) from error
    if isinstance(value, dict) and not text.lstrip().startswith("{"):
        value = text  # an environment id may hold ": ", which YAML would parse as a key
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def setting(option: str, text: str, example: str) -> dict[str, Any]:
    """As `override`, for an option's value `key=value`; UserError if it has another form."""
    key, equals, value = text.partition("=")
    require(bool(key and equals), f"{option} {text!r} is no key=value, as {example} is")
    return override(key, value)


def load(cls: type[Config], *trees: dict[str, Any]) -> Config:
    """Merge the trees, later over earlier, and build `cls`; UserError names a bad key."""
    merged: dict[str, Any] = {}
    try:
        for tree in trees:
            merged = _merge(merged, tree)
        check_keys(cls, merged)
    except RecursionError as error:
        raise UserError("config: it contains itself") from error
    try:
        return draccus.decode(cls, _rename(_listed(cls, merged), _NAME, _DRACCUS_KEY))
    except (draccus.ParsingError, draccus.utils.DecodingError, TypeError) as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        message = " ".join(str(cause if isinstance(cause, ValueError) else error).split())
        raise UserError(f"config: {message}") from error


def check_keys(cls: Any, tree: dict[str, Any]) -> None:
    """Raise UnknownKey for a key that `cls` does not have; it names the key that is meant."""
    for unknown in _unknown(cls, tree):
        raise UnknownKey(unknown, dict(_names(cls, tree)))


def _chosen(cls: Any, tree: dict[str, Any], path: str) -> Any:
    """The class that a tree chooses from a registry; `cls` itself where it is none."""
    if not issubclass(cls, draccus.ChoiceRegistry):
        return cls
    known = cls.get_known_choices()
    name = tree.get(_NAME, cls.default_choice_name())
    if not isinstance(name, str) or name not in known:
        raise UserError(f"config: {path}name {name!r} is unknown; one of {', '.join(known)}")
    return known[name]


def _names(cls: Any, tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Names, with dots, and defaults of all keys of `cls` and of the components a tree chooses."""
    tree = tree if isinstance(tree, dict) else {}
    if issubclass(cls, draccus.ChoiceRegistry):
        yield path + _NAME, cls.default_choice_name()
    cls = _chosen(cls, tree, path)
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _names(hint, tree.get(field.name), f"{path}{field.name}.")
        else:
            made = field.default_factory
            yield path + field.name, field.default if made is dataclasses.MISSING else made()


def _unknown(cls: Any, tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """The unknown keys of a tree; UserError for a value that does not fit its key."""
    choice = issubclass(cls, draccus.ChoiceRegistry)
    cls = _chosen(cls, tree, path)
    hints = get_type_hints(cls)
    valid = [f.name for f in dataclasses.fields(cls)] + ([_NAME] if choice else [])
    for key, value in tree.items():
        if key not in valid:  # for `backbone: {layers: 3}` it is backbone.layers
            yield next(iter(flat({str(key): value}, path)), f"{path}{key}")
            continue
        hint = hints.get(key)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise UserError(f"config: {path}{key} must hold keys, not {value!r}")
            yield from _unknown(hint, value, f"{path}{key}.")
        else:
            _check_value(hint, value, path + str(key))


def _check_value(hint: Any, value: Any, path: str) -> None:
    """Raise UserError for a value whose type does not fit its key."""
    if hint in (int, float, str, bool) and value is None:
        raise UserError(f"config: {path} is empty; it needs a value ({hint.__name__})")
    optional = (plain for plain in _WORDS if hint == plain | None and value is not None)
    kind = next(optional, hint)
    if kind in _WORDS and not _is_a(kind, value):
        raise UserError(f"config: {path} {value!r} is no {_WORDS[kind]}")
    if _LISTS in str(hint) and not (isinstance(value, str) and value):
        listed = isinstance(value, list | tuple)
        if not listed or not all(isinstance(item, str) for item in value):
            raise UserError(f"config: {path} {value!r} is no list of names; write [NAME] or []")
    if "tuple[float" in str(hint) and value is not None:
        listed = isinstance(value, list | tuple)
        words = "str" in str(hint)  # words such as `max` may replace numbers
        if not listed or not all(
            _is_a(float, item) or (words and isinstance(item, str)) for item in value
        ):
            raise UserError(f"config: {path} {value!r} is no list of numbers; write [3600, 1800]")


_WORDS = {int: "whole number", float: "number", str: "text"}
_LISTS = "tuple[str"  # in the hint of a key that holds names


def _listed(cls: Any, tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The tree with a list of one name where a key that holds names has a single word.

    Text is a sequence too: draccus would take its letters for names.
    """
    hints = get_type_hints(_chosen(cls, tree, path))
    found = dict(tree)
    for key, value in tree.items():
        hint = hints.get(key)
        if isinstance(value, str) and value and _LISTS in str(hint):
            found[key] = [value]
        elif isinstance(value, dict) and dataclasses.is_dataclass(hint):
            found[key] = _listed(hint, value, f"{path}{key}.")
    return found


def _is_a(kind: type, value: Any) -> bool:
    """Whether draccus converts the value to a number, or text; YAML reads 1e-4 as text."""
    if kind is str:
        return not isinstance(value, dict | list)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        number = kind(value)
        return kind is float or isinstance(value, str) or number == value
    except (ValueError, OverflowError):
        return False


def to_tree(config: Any) -> dict[str, Any]:
    """The config as plain YAML values, `name` keys included."""
    return _rename(draccus.encode(config), _DRACCUS_KEY, _NAME)


def dump(config: Any) -> str:
    """The config as YAML text that `load` reads back to an equal object."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def component_classes(config: Any) -> Iterator[type]:
    """The classes of a configuration and of the components that it holds."""
    yield type(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        parts = value.values() if isinstance(value, dict) else [value]
        for part in parts:
            if dataclasses.is_dataclass(part):
                yield from component_classes(part)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree with dotted keys: `{"train": {"steps": 5}}` -> `{"train.steps": 5}`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as a tree of plain YAML and JSON values."""
    return draccus.encode(dataclasses.asdict(value))


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader finds the old text or the new, never a part.

    It is written to another name, then renamed. UserError when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def require(condition: bool, message: str) -> None:
    """Raise UserError unless `condition` holds; used in the `__post_init__` of configurations."""
    if not condition:
        raise UserError(message)


def field_docs(cls: type) -> dict[str, str]:
    """The docstring of every field of a configuration dataclass, by name, its bases' too.

    A field's docstring is the string on the line after it. Fields without one are absent.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in itertools.pairwise(body.body):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(node, ast.AnnAssign) and documented:
                text = after.value.value  # type: ignore[attr-defined]
                if isinstance(node.target, ast.Name) and isinstance(text, str):
                    found[node.target.id] = inspect.cleandoc(text)
    return {
        field.name: found[field.name] for field in dataclasses.fields(cls) if field.name in found
    }


def config_classes(root: type) -> list[type]:
    """The configuration dataclasses that a root's keys can hold, each choice of a registry too."""
    found: list[type] = []

    def visit(hint: Any) -> None:
        for part in get_args(hint):
            visit(part)
        if not isinstance(hint, type) or not dataclasses.is_dataclass(hint) or hint in found:
            return
        if issubclass(hint, draccus.ChoiceRegistry) and hint.get_known_choices():
            # A registry's base is no choice; each of its choices is visited by itself.
            for choice in hint.get_known_choices().values():
                if choice is not hint:
                    visit_class(choice)
            return
        visit_class(hint)

    def visit_class(cls: type) -> None:
        if cls in found:
            return
        found.append(cls)
        for part in get_type_hints(cls).values():
            visit(part)

    visit_class(root)
    return found
