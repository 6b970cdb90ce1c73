"""The parts that verbs are made of: a parser with one-line errors, options that several share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from decision_seq.commands.console import BAD_INPUT
from decision_seq.recipes import DEFAULT_RECIPE, OF_DATASETS


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_verb(
    verbs: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
    **more: Any,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"Examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, takes_overrides=False, parser=parser, **more)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What says which run it is; any other key of the configuration can be given too."""
    parser.set_defaults(takes_overrides=True)
    parser.add_argument(
        "--config",
        help="a YAML file or a recipe's name (default: the dataset's kind's,"
        f" {', '.join((DEFAULT_RECIPE, *OF_DATASETS.values()))})",
    )
    parser.add_argument("--dataset", help="a dataset's name or path (see `decision-seq data list`)")
    parser.add_argument(
        "--output", type=Path, help="the run's folder (default runs/DATASET-POLICY-seedN)"
    )
    parser.add_argument("--seed", type=int, help="of the weights, the data order and the dropout")
    parser.add_argument(
        "--processes", type=int, help="refuse to start unless so many train together"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The trained policy that a verb is about."""
    parser.add_argument(
        "path", type=Path, metavar="DIR", help="a run's folder or one of its checkpoints"
    )
