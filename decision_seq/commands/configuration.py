"""The run's configuration and folder, from the command line's options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.recipes import recipe_of, recipe_trees
from decision_seq.types import UserError


def configure(options: argparse.Namespace) -> tuple[Any, Path]:
    """The configuration and the run's folder that the options select."""
    from decision_seq import config as configs
    from decision_seq.envs import trust
    from decision_seq.runs.folder import is_run
    from decision_seq.runs.resolve import Config

    if options.resume != "never" and options.output is None:
        raise UserError("--resume needs --output, the folder of the run to go on with")
    trees = []
    if options.output is not None and (options.output / "trainer").is_dir():
        raise UserError(f"{options.output} is a checkpoint, not a run; name another --output")
    resumed = options.resume != "never" and is_run(options.output)
    if resumed:
        trees.append(configs.read_yaml(options.output / "config.yaml"))
    if options.config or not trees:
        dataset = options.dataset or (trees[0].get("dataset") if resumed else None)
        trees.extend(recipe_trees(options.config or recipe_of(dataset), dataset))
    given = {"dataset": options.dataset, "seed": options.seed}
    trees.append({key: value for key, value in given.items() if value is not None})
    trees.extend(overrides(options.overrides))
    config = configs.load(Config, *trees)
    given_now = trees[1:] if resumed else trees
    if any("env_id" in (tree.get("evaluation") or {}) for tree in given_now):
        trust(config.evaluation.env_id or "")  # a saved id may come from the data, not the user
    return config, options.output or default_output(config)


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


def default_output(config: Any) -> Path:
    """runs/DATASET-POLICY-seedN, with a number appended if that folder exists."""
    from decision_seq.config import to_tree

    data = Path(config.dataset).stem if "." in config.dataset else config.dataset.replace("/", "-")
    base = f"{data}-{to_tree(config)['policy']['name']}-seed{config.seed}"
    number = 1
    while (path := Path("runs") / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return path
