"""`decision-seq plugins`."""

from __future__ import annotations

import argparse
from typing import Any

from decision_seq.commands.parsing import add_verb
from decision_seq.commands.streams import results
from decision_seq.formatting import json_text
from decision_seq.plugins import Plugin, loaded, plugin_of
from decision_seq.registries import registered


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "plugins",
        run_plugins,
        "List the loaded plugins and what they register.",
        "  decision-seq plugins\n"
        "  decision-seq --plugin my_policy plugins\n"
        "  DECISION_SEQ_PLUGINS=my_policy,my_reader decision-seq plugins --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run_plugins(options: argparse.Namespace) -> int:
    rows = [row for plugin in loaded() for row in _rows(plugin)]
    if options.json:
        print(json_text(rows), file=results())
    elif not rows:
        print(
            "no plugin is loaded; install one, or name its module by --plugin or"
            " DECISION_SEQ_PLUGINS",
            file=results(),
        )
    else:
        from decision_seq.report.text import table

        header = ("plugin", "source", "kind", "name", "class")
        print(table(header, [tuple(row.values()) for row in rows]), file=results())
    return 0


def _rows(plugin: Plugin) -> list[dict[str, str]]:
    """A row for each item that the plugin registered; one without an item if there is none."""
    import gymnasium

    from decision_seq.envs.registrations import environment_module

    items = {
        (kind, name): f"{item.__module__}.{item.__qualname__}"
        for kind, entries in registered().items()
        for name, item in entries.items()
        if plugin_of(item.__module__) == plugin.module
    }
    defined = {name: environment_module(name) for name in gymnasium.registry}
    items |= {
        ("environment", name): module
        for name, module in defined.items()
        if plugin_of(module) == plugin.module
    }
    own = {"plugin": plugin.module, "source": plugin.source}
    if not items:
        return [{**own, "kind": "", "name": "", "class": "registers nothing"}]
    return [
        {**own, "kind": kind, "name": name, "class": item}
        for (kind, name), item in sorted(items.items())
    ]
