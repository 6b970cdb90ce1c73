"""Parts shared by verbs: a parser with one-line errors, and common options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from decision_seq.commands.console import BAD_INPUT
from decision_seq.commands.help_text import help_text, terminal_width
from decision_seq.formatting import is_negative
from decision_seq.recipes import DEFAULT_RECIPE, OF_DATASETS
from decision_seq.types import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, and takes any negative number."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # An argument with a space is never taken for an option, and numbers may begin with one.
        given = sys.argv[1:] if args is None else args
        spaced = [f" {text}" if is_negative(text) else text for text in given]
        return super().parse_known_args(spaced, namespace)

    def format_help(self) -> str:
        return help_text(self, terminal_width())

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_verb(
    verbs: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
    add_help: bool = True,
    **more: Any,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"Examples:\n{example}",
        allow_abbrev=False,
        add_help=add_help,
    )
    parser.set_defaults(run=run, takes_overrides=False, parser=parser, **more)
    # Without a default: that would overrule a `--debug` before the verb.
    add_common(parser, argparse.SUPPRESS)
    return parser


def parsers_below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, then those of its verbs, and of their verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from parsers_below(verb)


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """The parser's options, by their long names."""
    return [name for one in parser._actions for name in one.option_strings if name[:2] == "--"]


def add_common(parser: argparse.ArgumentParser, default: Any) -> None:
    """Add the options of every verb."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=argparse.SUPPRESS,
        metavar="MODULE",
        help="a module that registers more policies, readers, ...; may be given several times",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=default,
        help="show the traceback of an error (as DECISION_SEQ_DEBUG=1)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that define a run; any key of the configuration is accepted as well."""
    parser.set_defaults(takes_overrides=True)
    parser.epilog = (
        f"{parser.epilog}\n\nAny key of the configuration is given as --KEY VALUE:"
        " `decision-seq train --help`\nlists them. A run's config.yaml holds all."
    )
    parser.add_argument(
        "--config",
        help="a YAML file or a recipe's name (default: the recipe of the dataset's kind, one of"
        f" {', '.join(dict.fromkeys((DEFAULT_RECIPE, *OF_DATASETS.values())))})",
    )
    parser.add_argument("--dataset", help="a dataset's name or path (see `decision-seq data list`)")
    parser.add_argument(
        "--output", type=Path, help="the run's folder (default runs/DATASET-NAME-seedN)"
    )
    parser.add_argument(
        "--name", help="name of the method in reports, plots and trackers (default: its policy's)"
    )
    parser.add_argument("--seed", type=int, help="seed of weights, data order and dropout")
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        help="begin with the weights of a run or checkpoint, instead of new ones",
    )
    parser.add_argument(
        "--processes", type=int, help="refuse to start unless this many processes train together"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a trained policy."""
    parser.add_argument(
        "path", type=Path, metavar="DIR", help="a run's folder or one of its checkpoints"
    )


def add_finding(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options of a verb that analyses a policy; its results go to `show_finding`."""
    parser.add_argument(
        "--device", help="device of the policy (default: CUDA if available, else CPU)"
    )
    parser.add_argument(
        "--output", type=Path, help=f"folder for {name}.json and {name}.png (default DIR)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def folder_to_write(path: Path, output: Path | None) -> Path:
    """The folder that a verb about the run at `path` writes to: `output`, or else `path`.

    UserError, before any long work, if it is not writable or cannot be made.
    """
    if output is None and not (path / "checkpoints").is_dir():
        raise UserError(f"{path} is no run's folder; say where to write with --output")
    folder = output or path
    there = next(found for found in (folder, *folder.absolute().parents) if found.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "it is read-only" if there.is_dir() else f"{there} is no folder"
        raise UserError(f"cannot write in {folder}: {what}; name another --output")
    return folder
