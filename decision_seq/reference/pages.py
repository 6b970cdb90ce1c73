"""Makes the reference pages from parsers, configuration classes and recipes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from decision_seq.commands import build_parser
from decision_seq.commands.configuration_help import described
from decision_seq.commands.help_text import WIDEST, help_text
from decision_seq.commands.parsing import parsers_below
from decision_seq.components import Component, Key, keys_of
from decision_seq.config import save_text
from decision_seq.escaping import block, code
from decision_seq.recipes import description, recipes, settings, tables

FOLDER = Path(__file__).parent
REWRITE = "python -m decision_seq.reference"
NOTE = f"Made from the code by `{REWRITE}`; do not edit it."


def pages() -> dict[str, Callable[[], str]]:
    """The pages by file name, as functions that make their text."""
    return {
        "configuration.md": configuration_page,
        "commands.md": commands_page,
        "recipes.md": recipes_page,
    }


def write(folder: Path = FOLDER) -> list[Path]:
    """Write all pages -> their paths."""
    for name, page in pages().items():
        save_text(folder / name, page())
    return [folder / name for name in pages()]


def configuration_page() -> str:
    """Every component of the configuration with its keys."""
    found = described()
    titles = [f"- [{_title(one)}](#{anchor(_title(one))})" for one in found]
    intro = (
        "Every key can be given on the command line, `decision-seq train --train.steps 5000`, and"
        " in a YAML file that `--config` names:"
    )
    outro = (
        "A key whose type includes `null` may be left open. `LABEL` stands for a name of your"
        " choice. `decision-seq train --help NAME` prints a component or a key."
    )
    parts = [
        "# Configuration",
        NOTE,
        intro,
        block("train: {steps: 5000}\npolicy: {name: tt, planner: {beams: 32}}", "yaml"),
        outro,
        f"{len(found)} components, {len(keys_of(found))} keys:",
        "\n".join(titles),
        *(part for one in found for part in _component(one)),
    ]
    return "\n\n".join(parts) + "\n"


def _component(one: Component) -> Iterator[str]:
    yield f"## {_title(one)}"
    yield _prose(one.meaning)
    facts = []
    if one.entries:
        facts.append(f"Its entries: {_links(one.entries)}.")
    if one.others and one.entries:
        facts.append(f"The same for {', '.join(map(code, one.others))}.")
    if one.like:
        facts.append(f"It has the keys of {_links([one.like])} too.")
    if one.parts:
        facts.append(f"Its parts: {_links(one.parts)}.")
    if facts:
        yield " ".join(facts)
    if one.own:
        yield _table(["key", "type", "default", "meaning"], [_row(key) for key in one.own])


def _row(key: Key) -> list[str]:
    default = code(key.default) if key.default else ""
    return [code(key.name), _prose(key.kind), default, _prose(key.meaning)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(one: Component) -> str:
    return one.address or "The run"


def _links(addresses: Sequence[str]) -> str:
    return ", ".join(f"[{address}](#{anchor(address)})" for address in addresses)


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _prose(text: str) -> str:
    """A text of ours in a table's cell or a paragraph; its code stays code."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def commands_page() -> str:
    """Every verb with its help."""
    root, *verbs = parsers_below(build_parser())
    parts = [
        "# Commands",
        NOTE,
        f"`VERB --help` prints these texts, {WIDEST} columns wide at most. `train --help` goes on"
        " with the [recipes](recipes.md) and the [configuration](configuration.md).",
        "\n".join(f"- [{one.prog}](#{anchor(one.prog)})" for one in verbs),
        block(help_text(root, WIDEST).rstrip(), "text"),
    ]
    for one in verbs:
        parts += [f"## {one.prog}", block(help_text(one, WIDEST).rstrip(), "text")]
    return "\n\n".join(parts) + "\n"


def recipes_page() -> str:
    """Every recipe and table with its description and settings."""
    known, grids = recipes(), tables()
    parts = [
        "# Recipes",
        NOTE,
        "A recipe is the configuration of one run: `decision-seq train --config NAME`. What it"
        " leaves out has its [default](configuration.md). Settings under `for_datasets` hold for"
        " the datasets whose names match.",
        _contents(known),
        *(part for name, path in known.items() for part in _recipe(name, path)),
        "# Tables",
        "A table is a grid of runs: `decision-seq sweep NAME`.",
        _contents(grids),
        *(part for name, path in grids.items() for part in _recipe(name, path)),
    ]
    return "\n\n".join(parts) + "\n"


def _contents(known: dict[str, Path]) -> str:
    lines = [f"- [{name}](#{anchor(name)}): {description(path)[0]}" for name, path in known.items()]
    return "\n".join(lines)


def _recipe(name: str, path: Path) -> Iterator[str]:
    first, rest = description(path)
    yield f"## {name}"
    yield f"**{first}**"
    if rest:
        yield _prose(" ".join(rest.split()))
    yield block(settings(path), "yaml")
