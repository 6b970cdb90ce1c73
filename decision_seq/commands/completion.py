"""`decision-seq completion`: scripts that let a shell complete verbs, options, keys and recipes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.parsing import add_verb, parsers_below
from decision_seq.commands.streams import results

SHELLS = ("bash", "zsh", "tcsh")


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "completion",
        run_completion,
        "Print a script with which a shell completes this command's verbs, options and keys.",
        "  decision-seq completion bash >> ~/.bash_completion\n"
        '  decision-seq completion zsh > "${fpath[1]}/_decision-seq"\n'
        "  decision-seq completion tcsh > ~/.decision-seq.csh   # then: source it in ~/.tcshrc\n\n"
        "Print it again after an update, or when plugins change.",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run_completion(options: argparse.Namespace) -> int:
    print(script(options.shell, options.root), file=results())
    return 0


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The completion script of a shell, with the recipes and the keys of all components.

    parser: that of the whole command line; options of the keys are added to it.
    """
    import shtab

    from decision_seq.commands.configuration_help import described
    from decision_seq.components import LABEL, keys_of
    from decision_seq.recipes import recipes, tables

    found = described()
    keys = [key for key in keys_of(found).values() if LABEL not in key.name]
    for one in parsers_below(parser):
        for action in one._actions:
            if action.dest == "config" and action.option_strings:
                action.choices = list(recipes())
            elif action.dest == "file" and one.prog.endswith(" sweep"):
                action.choices = list(tables())
            elif action.dest == "help" and action.nargs == "?":
                action.choices = [part.address for part in found if part.address]
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        if one.get_default("takes_overrides"):
            for key in keys:
                if f"--{key.name}" not in one._option_string_actions:
                    choices = list(key.choices) or None
                    about = key.meaning.replace("%", "%%")
                    one.add_argument(f"--{key.name}", help=about, choices=choices)
    return shtab.complete(parser, shell=shell)
