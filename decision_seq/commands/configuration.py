"""The run's configuration and folder, from the command line's options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.methods import check_name
from decision_seq.recipes import recipe_name, recipe_of, recipe_trees
from decision_seq.types import UserError


def configure(options: argparse.Namespace) -> tuple[Any, Path]:
    """The configuration and the run's folder that the options select."""
    from decision_seq import config as configs
    from decision_seq.envs import trust
    from decision_seq.plugins import require_loaded
    from decision_seq.runs.default_output import default_output
    from decision_seq.runs.folder import is_run
    from decision_seq.runs.resolve import Config
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
        trees.append({"method": recipe_name(recipe)})
        trees.extend(recipe_trees(recipe, dataset))
    if options.name is not None:
        check_name(options.name, f"--name {options.name!r}")
    given = {
        "dataset": options.dataset,
        "seed": options.seed,
        "method": options.name,
        "init_from": options.init_from,
    }
    trees.append({key: value for key, value in given.items() if value is not None})
    trees.extend(overrides(options.overrides))
    for tree in trees:
        require_loaded(tree.get("plugins") or (), "this configuration")
    config = configs.load(Config, *trees)
    given_now = trees[1:] if resumed else trees
    if any("env_id" in (tree.get("evaluation") or {}) for tree in given_now):
        trust(config.evaluation.env_id or "")  # a saved id may come from the data, not the user
    return config, options.output or default_output(config, options.name)


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


def overrides(arguments: list[str]) -> list[dict[str, Any]]:
    """`--train.steps 500` and `--train.steps=500` as configuration trees."""
    from decision_seq.config import override

    trees, rest = [], list(arguments)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise UserError(f"unexpected argument {key!r}; overrides are given as --key.key VALUE")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{key} needs a value")
            value = rest.pop(0)
        trees.append(override(key.removeprefix("--"), value))
    return trees
