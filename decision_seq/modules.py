"""Import of modules that the user named, such as plugins and modules of environments."""

from __future__ import annotations

import importlib
import os
import re
import sys

from decision_seq.formatting import message_of
from decision_seq.types import UserError

MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
# What code of the user's may raise, and what then counts as its fault. Ctrl-C does not.
FAILURES = (Exception, SystemExit, GeneratorExit)


def import_named(module: str, what: str) -> None:
    """Import a module that the user named; it may lie in the current folder, as for `python -m`.

    what: the thing that needs it, for messages. UserError if it is no module's name, or if its
    import fails with anything.
    """
    if not MODULE.fullmatch(module):
        raise UserError(f"{what}: {module!r} is no module's name")
    here, path = os.getcwd(), list(sys.path)
    if "" not in path and here not in path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except FAILURES as error:
        sys.path[:] = path
        raise UserError(
            f"{what}: module {module} cannot be imported: {described(error)}"
        ) from error
    found = getattr(sys.modules[module], "__file__", None) or ""
    if not os.path.abspath(found).startswith(os.path.join(here, "")):
        sys.path[:] = path  # kept only where it was needed: the module may import its neighbours


def described(error: BaseException) -> str:
    """An exception as one short line: its type and its message."""
    message = message_of(error)
    if len(message) > 300:
        message = f"{message[:300]}..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
