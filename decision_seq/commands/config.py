"""`decision-seq config ...`: configurations, shown, compared and checked without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.configuration import configure
from decision_seq.commands.console import is_main_rank, make_reporter
from decision_seq.commands.parsing import Parser, add_common, add_run_options, add_verb
from decision_seq.commands.streams import results
from decision_seq.escaping import terminal
from decision_seq.formatting import json_text, value_text
from decision_seq.types import UserError


def add(verbs: Any) -> None:
    config = verbs.add_parser(
        "config",
        help="Show, compare and check configurations without training.",
        description="Show, compare and check configurations without training.",
        epilog="Examples:\n  decision-seq config show --config dt/paper\n"
        "  decision-seq config diff dt/gym dt/paper",
    )
    add_common(config, argparse.SUPPRESS)
    parts = config.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="VERB")
    _add_show(parts)
    _add_diff(parts)
    _add_check(parts)


def _add_show(parts: Any) -> None:
    parser = add_verb(
        parts,
        "show",
        run_show,
        "Print the configuration that `train` would use with the same options, as YAML.",
        "  decision-seq config show --dataset hopper-medium\n"
        "  decision-seq config show --config dt/paper --train.steps 5000 > mine.yaml\n"
        "  decision-seq config show --config tt/gym --dataset walker2d-medium --data",
        resume="never",
    )
    add_run_options(parser)
    parser.add_argument(
        "--data",
        action="store_true",
        help="open the data, and print the values that depend on them instead of null; they are"
        " fetched or collected where `train` would do so",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of YAML")


def run_show(options: argparse.Namespace) -> int:
    from decision_seq.config import dump, to_tree

    config, output = configure(options)
    if options.data:
        from decision_seq.runs.experiment import prepare_checked

        config = prepare_checked(config, output, make_reporter()).config
    text = json_text(to_tree(config)) if options.json else dump(config).rstrip()
    print(text, file=results())
    return 0


def _add_diff(parts: Any) -> None:
    parser = add_verb(
        parts,
        "diff",
        run_diff,
        "Compare two configurations: the keys that differ, and both values.",
        "  decision-seq config diff dt/gym dt/paper\n"
        "  decision-seq config diff runs/first runs/second\n"
        "  decision-seq config diff mine.yaml runs/first/checkpoints/step-00003000 --json",
    )
    what = "a run's folder, a checkpoint, a recipe's name or a YAML file"
    parser.add_argument("first", metavar="A", help=what)
    parser.add_argument("second", metavar="B", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run_diff(options: argparse.Namespace) -> int:
    from decision_seq.config import flat, to_tree
    from decision_seq.report import table

    named = options.first, options.second
    first, second = (flat(to_tree(_named(name))) for name in named)
    sections = list(dict.fromkeys(key.split(".")[0] for key in first))
    keys = [key for key in {**first, **second} if _value(first, key) != _value(second, key)]
    keys.sort(key=lambda key: sections.index(key.split(".")[0]))
    if options.json:
        found = {key: [first.get(key), second.get(key)] for key in keys}
        print(json_text(found), file=results())
    elif keys:
        rows = [[key, _value(first, key), _value(second, key)] for key in keys]
        print(table(["key", *named], rows, left=None), file=results())
    else:
        print("no differences", file=results())
    return 0


def _value(tree: dict[str, Any], key: str) -> str:
    """A key's value as YAML; `-` where the configuration has no such key."""
    return value_text(tree[key]) if key in tree else "-"


def _named(name: str) -> Any:
    """The configuration of a run, a checkpoint, a recipe or a YAML file."""
    from decision_seq.config import load, read_yaml
    from decision_seq.recipes import recipes, run_trees
    from decision_seq.runs.resolve import Config, config_of

    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (name in recipes() and not path.is_dir()):
        return load(Config, *run_trees(name))
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"{terminal(name)} is no run, checkpoint, recipe or YAML file; `decision-seq train"
            " --help` lists the recipes"
        )
    return config_of(read_yaml(path / "config.yaml"))


def _add_check(parts: Any) -> None:
    parser = add_verb(
        parts,
        "check",
        run_check,
        "Check a configuration with its data, and predict parameters, FLOPs, memory and time.",
        "  decision-seq config check --dataset hopper-medium\n"
        "  decision-seq config check --config dt/large --train.batch_size 512 --json\n\n"
        "Some updates are executed, for about 10 seconds; no run begins. `decision-seq doctor`\n"
        "checks the launch, the disk and the simulator as well.",
        resume="never",
    )
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run_check(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from decision_seq.config import to_tree
    from decision_seq.doctor.prediction import predict, prediction_text

    config, output = configure(options)
    config, found = predict(config, output, options.processes, make_reporter())
    if is_main_rank():
        both = {"config": to_tree(config), "prediction": asdict(found)}
        text = json_text(both) if options.json else terminal(prediction_text(config, found), True)
        print(text, file=results())
    return 0
