"""Reading of small files that others may have written, bounded in time and memory.

A file is opened only if it is a regular one: a pipe or a device could block for ever. Its size, the
depth of its content and the length of its numbers are limited. Text is UTF-8 in every locale.
Every fault is an `Unreadable`, one line with the path.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import yaml

from decision_seq.types import UserError

SMALL = 16 << 20  # bytes; the largest files of this package that are read whole have some 100 kB
LOG_LINE = 16 << 20  # bytes of a line; an evaluation's line holds the returns of its episodes
DIGITS = 100  # of a whole number; text of more takes quadratic time to convert
# Of a YAML file: values that are written (PyYAML takes a second for 6,000), and values of its tree,
# where an alias counts each time it is used. Ours hold a few hundred.
MOST_NODES, MOST_VALUES = 20_000, 100_000
YAML_BYTES = 1 << 20
# Errors of PyYAML for a tag that does not fit its text, and for nesting that is too deep.
BAD_SCALARS = (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError)
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Unreadable(UserError):
    """Error for a file that cannot be read, or whose content is not what it must be."""

    reason: str
    """The message without the path."""


class Absent(Unreadable):
    """Error for a file that does not exist."""


def unreadable(path: Path, reason: str, kind: type[Unreadable] = Unreadable) -> Unreadable:
    """The error of a file; reason: what is wrong, as in `is a pipe`."""
    error = kind(f"{path} {reason}")
    error.reason = reason
    return error


def open_file(path: Path, within: Path | None = None) -> BufferedReader:
    """Open a regular file for reading bytes, without ever waiting.

    within: a folder that may come from a stranger. A symbolic link out of it is refused, because
    its maker could name a file of the reader. Links elsewhere are followed. Absent or Unreadable
    when the file cannot be opened.
    """
    if within is not None:
        require_inside(path, within)
    try:
        # Opening acts on some devices, so the kind is looked up first; and again on the open file,
        # because the name may have been given to another file since.
        _require_regular(path, os.stat(path))
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _require_regular(path, os.fstat(handle))
            return open(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _refused(path, error) from error


def require_inside(path: Path, within: Path) -> None:
    """Unreadable if the path is a link that leads out of the folder."""
    try:
        real = os.path.realpath(path)
        inside = real.startswith(os.path.join(os.path.realpath(within), ""))
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    if not inside:
        raise unreadable(path, f"is a link out of {within}; put the file itself there")


def _require_regular(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = KINDS.get(stat.S_IFMT(facts.st_mode), "of an unknown kind")
        raise unreadable(path, f"is {kind}, not a regular file")


def _refused(path: Path, error: Exception) -> Unreadable:
    code = getattr(error, "errno", None)
    if code in (errno.ENOENT, errno.ENOTDIR):
        return unreadable(path, "does not exist", Absent)
    return unreadable(path, f"cannot be read ({getattr(error, 'strerror', None) or error})")


def read_bytes(path: Path, limit: int = SMALL, within: Path | None = None) -> bytes:
    """The content of a regular file; Unreadable if it has more than `limit` bytes."""
    with open_file(path, within) as file:
        size = os.fstat(file.fileno()).st_size  # a sparse file costs nothing to make
        try:
            data = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise _refused(path, error) from error
    if max(size, len(data)) > limit:
        raise unreadable(path, f"has more than {limit:,} bytes")
    return data


def read_text(
    path: Path, limit: int = SMALL, within: Path | None = None, errors: str = "strict"
) -> str:
    """The text of a UTF-8 file, with line ends as `\\n`. errors: as of `bytes.decode`."""
    text = _decoded(path, read_bytes(path, limit, within), errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(path: Path, data: bytes, errors: str = "strict") -> str:
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise unreadable(
            path, f"is not UTF-8 text (byte {error.start + 1:,}); save it as UTF-8"
        ) from error


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file one by one, with their `\\n`; Unreadable at one that is too long.

    Characters that are not UTF-8 are replaced, as a killed process may have cut the last one.
    """
    with open_file(path) as file:
        try:
            while line := file.readline(LOG_LINE + 1):
                if len(line) > LOG_LINE:
                    raise unreadable(path, f"has a line of more than {LOG_LINE:,} bytes")
                yield line.decode("utf-8", "replace")
        except OSError as error:
            raise _refused(path, error) from error


def parse_json(text: str, strict: bool = True) -> Any:
    """The value of a JSON text; ValueError for any fault.

    strict: whether NaN and infinity are faults, as JSON itself has neither.
    """

    def whole(digits: str) -> int:
        if len(digits) > DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits")
        return int(digits)

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name}, which JSON does not have")

    def real(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError("a number that is too large")
        return number

    checks: dict[str, Any] = {"parse_constant": constant, "parse_float": real} if strict else {}
    try:
        return json.loads(text, parse_int=whole, **checks)
    except RecursionError as error:
        raise ValueError("values that are nested too deeply") from error


def read_json(
    path: Path, limit: int = SMALL, within: Path | None = None, strict: bool = True
) -> dict[str, Any]:
    """The object in a JSON file; Unreadable if it holds anything else. strict: see `parse_json`."""
    try:
        tree = parse_json(read_text(path, limit, within), strict)
    except ValueError as error:
        raise unreadable(path, f"is no valid JSON ({error})") from error
    if not isinstance(tree, dict):
        raise unreadable(path, "holds no table of keys and values")
    return tree


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's loader of plain values, with limits on their number and on the length of numbers."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.nodes = self.merged = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_NODES:,} values")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace the merge keys (`<<`) of a mapping; a few of them can make billions of pairs."""
        for key, value in list(node.value):
            if key.tag != "tag:yaml.org,2002:merge":
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts:
                if isinstance(part, yaml.MappingNode):
                    self.flatten_mapping(part)
                    self.merged += len(part.value)
                if self.merged > MOST_VALUES:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"merge keys (<<) of more than {MOST_VALUES:,} values"
                    )
        super().flatten_mapping(node)

    def construct_yaml_int(self, node: Any) -> int:
        return super().construct_yaml_int(self._short(node))

    def construct_yaml_float(self, node: Any) -> float:
        return super().construct_yaml_float(self._short(node))

    def _short(self, node: Any) -> Any:
        """Refuse long numbers; the time to convert one (1:30:00 is one too) is quadratic."""
        if isinstance(node, yaml.ScalarNode) and len(node.value) > DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value):,} characters"
            )
        return node


for _tag in ("int", "float"):
    BoundedLoader.add_constructor(
        f"tag:yaml.org,2002:{_tag}", getattr(BoundedLoader, f"construct_yaml_{_tag}")
    )


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; ValueError, of one line, for any fault."""
    try:
        tree = yaml.load(text, BoundedLoader)
    except (yaml.YAMLError, *BAD_SCALARS) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(first[:120]) from error
    if _is_endless(tree):
        raise ValueError(f"it contains itself, or more than {MOST_VALUES:,} values")
    return tree


def _is_endless(tree: Any) -> bool:
    """Whether a tree is cyclic or too large; a few lines with aliases (`*a`) suffice for that."""
    waiting, seen = [tree], 0
    while waiting and seen <= MOST_VALUES:
        node = waiting.pop()
        seen += 1
        if isinstance(node, dict | list):
            waiting.extend(node.values() if isinstance(node, dict) else node)
    return bool(waiting)


Kinds = Mapping[str, type | tuple[type, ...]]
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_NAMES |= {list: "a list", dict: "a table", type(None): "null"}


def fault_of(tree: Any, kinds: Kinds) -> str | None:
    """The first fault of a JSON object: no object, a key is absent or its value of another kind.

    kinds: key -> the types that its value may have. `float` takes whole numbers too, `int` and
    `float` take no bool, and a key that may be None may be absent. Other keys are ignored.
    """
    if not isinstance(tree, dict):
        return "it is no table of keys and values"
    for key, expected in kinds.items():
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if key not in tree and type(None) not in allowed:
            return f"it has no {key}"
        value = tree.get(key)
        fits = isinstance(value, allowed) or (float in allowed and isinstance(value, int))
        if not fits or (isinstance(value, bool) and bool not in allowed):
            return f"its {key} is not {' or '.join(_NAMES[kind] for kind in allowed)}"
    return None


def read_record(
    path: Path, kinds: Kinds, limit: int = SMALL, within: Path | None = None
) -> dict[str, Any]:
    """The object in a JSON file; Unreadable unless its values are of these kinds: `fault_of`."""
    tree = read_json(path, limit, within)
    fault = fault_of(tree, kinds)
    if fault:
        raise unreadable(path, f"is damaged: {fault}")
    return tree
