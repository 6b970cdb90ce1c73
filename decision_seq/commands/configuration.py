"""The run's configuration and folder, from the command line's options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from decision_seq.commands.parsing import option_names
from decision_seq.methods import check_name
from decision_seq.recipes import recipe_of, run_trees
from decision_seq.types import UserError


class Override(NamedTuple):
    """A key of the configuration that is given on the command line."""

    given: str
    """The option as it was written: `--train.steps`, `-K`."""
    key: str
    """The key; with the dash where there is only one, which no key has."""
    text: str | None
    """Its value; None where none is given."""


def configure(options: argparse.Namespace) -> tuple[Any, Path]:
    """The configuration and the run's folder that the options select."""
    from decision_seq import config as configs
    from decision_seq.envs import trust
    from decision_seq.runs.default_output import default_output
    from decision_seq.runs.folder import is_run
    from decision_seq.user_choices import use_again

    if options.resume != "never" and options.output is None:
        options.output = _output_to_resume(options)
    trees = []
    if options.output is not None and (options.output / "trainer").is_dir():
        raise UserError(f"{options.output} is a checkpoint, not a run; name another --output")
    resumed = options.resume != "never" and is_run(options.output)
    if resumed:
        use_again(options.output)
        trees.append(configs.read_yaml(options.output / "config.yaml"))
    if options.config or not trees:
        dataset = options.dataset or (trees[0].get("dataset") if resumed else None)
        recipe = options.config or recipe_of(dataset)
        trees.extend(run_trees(recipe, dataset))
    if options.name is not None:
        check_name(options.name, f"--name {options.name!r}")
    given = {
        "dataset": options.dataset,
        "seed": options.seed,
        "method": options.name,
        "init_from": options.init_from,
    }
    trees.append({key: value for key, value in given.items() if value is not None})
    config, changes = _loaded(trees, options)
    given_now = [*(trees[1:] if resumed else trees), *changes]
    if any("env_id" in (tree.get("evaluation") or {}) for tree in given_now):
        trust(config.evaluation.env_id or "")  # a saved id may come from the data, not the user
    return config, options.output or default_output(config, options.name)


def _loaded(
    trees: list[dict[str, Any]], options: argparse.Namespace
) -> tuple[Any, list[dict[str, Any]]]:
    """The configuration of trees and command line -> it, and the command line's trees.

    UserError for an unknown key, or an option without a value, in the words of the command line.
    """
    from decision_seq.config import load, override
    from decision_seq.plugins import require_loaded
    from decision_seq.runs.resolve import Config
    from decision_seq.suggestions import UnknownKey

    given = overrides(options.overrides)
    changes = [override(one.key, one.text or "") for one in given]
    for tree in (*trees, *changes):
        require_loaded(tree.get("plugins") or (), "this configuration")
    empty = next((one for one in given if one.text is None), None)
    try:
        config = load(Config, *trees, *changes)
    except UnknownKey as error:
        option = next((one for one in given if f"{error.key}.".startswith(f"{one.key}.")), None)
        if option is None:
            raise
        raise error.as_option(option.given, option_names(options.parser)) from None
    except UserError:
        if empty is None:
            raise
    if empty is not None:
        about = f"`decision-seq train --help {empty.key}` describes it"
        raise UserError(f"{empty.given} needs a value; {about}")
    return config, changes


def _output_to_resume(options: argparse.Namespace) -> Path:
    """The run that --resume continues where no --output names it: the one in the default folder.

    UserError when there are several, with a number at the end of their folders' names.
    """
    from decision_seq.runs.default_output import default_outputs

    begun = argparse.Namespace(**{**vars(options), "resume": "never", "output": None})
    first, *others = default_outputs(configure(begun)[0], options.name)
    if len(others) > 1:
        named = ", ".join(map(str, [first, *others[:-1]]))
        raise UserError(f"--resume: there are {named}; name one of these runs with --output")
    return first


def overrides(arguments: list[str]) -> list[Override]:
    """`--train.steps 500` and `--train.steps=500` as keys and their values."""
    found, rest = [], list(arguments)
    while rest:
        given, equals, text = rest.pop(0).partition("=")
        if not _is_option(given):
            raise UserError(f"unexpected argument {given!r}; keys are given as --key.key VALUE")
        value: str | None = text
        if not equals:
            value = rest.pop(0) if rest and not _is_option(rest[0]) else None
        found.append(Override(given, given.removeprefix("--"), value))
    return found


def _is_option(argument: str) -> bool:
    # Negative numbers begin with a space, see `Parser.parse_known_args`.
    return argument.startswith("-") and argument.strip("-") != "" and " " not in argument
