"""Plugins: modules outside this package whose import registers more components.

A plugin is loaded where the user names it: by installing a package with an entry point in the group
`decision_seq.plugins`, by `--plugin MODULE`, or by the variable DECISION_SEQ_PLUGINS, a list of
modules with commas between them. The variable also tells child processes which plugins this process
has loaded. A run records the modules of its components. No dataset, checkpoint or run folder makes
us import a module: one that is missing is named, and the user decides.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from decision_seq.modules import FAILURES, described, import_named
from decision_seq.types import UserError

GROUP, VARIABLE = "decision_seq.plugins", "DECISION_SEQ_PLUGINS"
MOST = 64  # modules that a configuration may list


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin."""

    module: str
    """Its module."""
    source: str
    """How the user named it: by an installed package, by the variable, or by --plugin."""


_loaded: dict[str, Plugin] = {}


def loaded() -> tuple[Plugin, ...]:
    """The plugins of this process, in the order of their loading."""
    return tuple(_loaded.values())


def load_plugins(named: Sequence[str] = (), source: str = "named") -> None:
    """Load the installed plugins, those of the variable, and the named modules, each once.

    source: how the modules were named, for `Plugin`. UserError, which names the plugin, where one
    cannot be imported.
    """
    for entry in entry_points(group=GROUP):
        _load_installed(entry)
    listed = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    for module in filter(None, listed):
        _load_module(module, VARIABLE)
    load_named(named, source)


def load_named(named: Sequence[str], source: str = "named") -> None:
    """Load the named modules alone, each once, here and in the processes that this one starts."""
    for module in named:
        _load_module(module, source)
    if named:
        modules = [plugin.module for plugin in loaded() if not plugin.source.startswith("package")]
        os.environ[VARIABLE] = ",".join(modules)


def _load_module(module: str, source: str) -> None:
    if module not in _loaded:
        import_named(module, f"plugin {module}")
        _loaded[module] = Plugin(module, source)


def _load_installed(entry: EntryPoint) -> None:
    if entry.value in _loaded:
        return
    package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "package"
    try:
        found = entry.load()
        if entry.attr:
            found()
    except FAILURES as error:
        raise UserError(
            f"plugin {entry.name} ({package}) cannot be loaded: {described(error)}; mend it, or"
            " uninstall the package"
        ) from error
    _loaded[entry.value] = Plugin(entry.module, package)


def modules_needed(classes: Iterable[type], environment: str) -> tuple[str, ...]:
    """The modules that have to be loaded for a run, sorted.

    classes: those of its components; the module of one from outside this package is replaced by the
    loaded plugin that it belongs to. environment: the module of its environment, which is needed
    where a plugin has it.
    """
    package = __name__.partition(".")[0]
    found = {cls.__module__ for cls in classes}
    outside = {plugin_of(name) or name for name in found if name.partition(".")[0] != package}
    owner = plugin_of(environment)
    return tuple(sorted(outside | ({owner} if owner else set())))


def plugin_of(module: str) -> str | None:
    """The loaded plugin that a module belongs to; None where there is none."""
    names = {plugin.module for plugin in loaded()}
    owners = [name for name in names if module == name or module.startswith(f"{name}.")]
    return max(owners, key=len, default=None)


def require_loaded(modules: object, owner: str) -> None:
    """Raise UserError unless the modules that a configuration lists are loaded.

    modules: the value of its key `plugins`, which may come from a stranger and is never imported.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(m, str) for m in modules):
        raise UserError(f"{owner}: plugins must be a list of modules' names")
    if len(modules) > MOST:
        raise UserError(f"{owner}: plugins lists more than {MOST} modules")
    for module in modules:
        if module in sys.modules:
            continue
        if module == "__main__":
            mend = "it is defined in a script or notebook: run the definition first"
        else:
            mend = f"if you trust it, load it by --plugin {module} (in Python: import {module})"
        raise UserError(f"{owner} needs the plugin {module}, which is not loaded; {mend}")
