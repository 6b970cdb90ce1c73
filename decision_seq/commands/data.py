"""`decision-seq data ...`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter
from decision_seq.commands.parsing import Parser, add_common, add_verb
from decision_seq.commands.streams import results
from decision_seq.escaping import terminal
from decision_seq.formatting import json_text, spread_text
from decision_seq.types import UserError


def add(verbs: Any) -> None:
    data = verbs.add_parser(
        "data",
        help="List, inspect and make datasets.",
        description="List, inspect and make datasets.",
        epilog="Examples:\n  decision-seq data list\n  decision-seq data inspect --help",
    )
    add_common(data, argparse.SUPPRESS)
    verbs = data.add_subparsers(
        dest="data_verb", required=True, parser_class=Parser, metavar="VERB"
    )
    _add_list(verbs)
    _add_inspect(verbs)
    _add_fetch(verbs)
    _add_collect(verbs)
    _add_convert(verbs)


def _add_list(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "list",
        run_list,
        "List datasets: name, source, size, and whether they are on this machine.",
        "  decision-seq data list\n  decision-seq data list --source bundled --json",
    )
    parser.add_argument(
        "--source",
        choices=["bundled", "atari", "d4rl", "minari", "store"],
        help="list only datasets of this source",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run_list(options: argparse.Namespace) -> int:
    from decision_seq.datasets.catalog import catalog
    from decision_seq.report import table

    rows = catalog(options.source)
    if options.json:
        print(json_text(rows), file=results())
        return 0
    header = list(rows[0]) if rows else ["name"]
    text = [["-" if row[key] is None else str(row[key]) for key in header] for row in rows]
    print(table(header, text))
    return 0


def _add_inspect(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "inspect",
        run_inspect,
        "Show the content of a dataset, and its faults.",
        "  decision-seq data inspect hopper-medium --plot returns.png\n"
        "  decision-seq data inspect ~/.d4rl/datasets/hopper_medium-v2.hdf5 --json",
    )
    parser.add_argument("name", metavar="NAME", help="a dataset's name or path")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the returns' histogram")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run_inspect(options: argparse.Namespace) -> int:
    from decision_seq.datasets import Request, open_dataset
    from decision_seq.datasets.inspection import inspect
    from decision_seq.report import inspection_text
    from decision_seq.report.plots import plot_returns

    reporter = make_reporter()
    store = open_dataset(options.name, Request(reporter=reporter))
    facts = inspect(store, reporter)
    if options.plot:
        plot_returns(store.name, store.returns, facts["suggested_targets"], options.plot)
        reporter.say(f"written: {options.plot}")
    print(json_text(facts) if options.json else inspection_text(facts), file=results())
    return 0


def _add_fetch(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "fetch",
        run_fetch,
        "Download datasets and build their stores, so that training needs no network.",
        "  decision-seq data fetch d4rl/hopper-medium-v2 d4rl/walker2d-medium-v2\n"
        "  decision-seq data fetch minari/mujoco/hopper/medium-v0\n"
        "  DECISION_SEQ_D4RL_URL=http://mirror/d4rl decision-seq data fetch d4rl/pen-human-v1",
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="names of datasets")


def run_fetch(options: argparse.Namespace) -> int:
    from decision_seq.datasets import Request, open_dataset

    for name in options.names:
        _print_store(open_dataset(name, Request(reporter=make_reporter())))
    return 0


def _add_collect(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "collect",
        run_collect,
        "Roll out a behaviour policy and save its episodes as a store for `train --dataset`.",
        "  decision-seq data collect hopper-medium\n"
        "  decision-seq data collect hopper-medium --steps 1000000 --seed 1 --output big\n"
        "  decision-seq data collect atari/bundled-pong --steps 20000 --output pong\n"
        "  decision-seq data collect --policy hopper_medium-v2.hdf5 --env Hopper-v4 \\\n"
        "      --steps 200000 --output regrown\n"
        "  decision-seq data collect --policy uniform --env Hopper-v4 --output random\n"
        "  decision-seq data collect --policy uniform --env KeyToDoor-v0 --episodes 1000 \\\n"
        "      --output walks",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a bundled dataset")
    parser.add_argument(
        "--policy",
        help="a D4RL v2 file that contains its policy, a .safetensors actor, or `uniform`",
    )
    parser.add_argument("--env", help="with --policy: a Gymnasium id")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--steps",
        type=int,
        help="transitions to collect, rounded up to whole episodes (default: the size of NAME in"
        " `data list`, else 200000)",
    )
    size.add_argument("--episodes", type=int, help="episodes to collect, instead of --steps")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed (default 0); it determines all bytes"
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default one a core); do not affect the data"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the new store (default, with NAME: where `train` looks for it)",
    )


def run_collect(options: argparse.Namespace) -> int:
    from decision_seq.datasets import Request, open_dataset
    from decision_seq.datasets.collected.bundled import collect_named
    from decision_seq.datasets.collected.collection import Size
    from decision_seq.envs.atari_scores import ATARI

    named = options.name is not None
    if named == (options.policy is not None) or named == (options.env is not None):
        raise UserError("give the NAME of a bundled dataset, or --policy FILE with --env ID")
    size = None if options.steps is None else Size(options.steps)
    if options.episodes is not None:
        size = Size(options.episodes, "episode")
    reporter = make_reporter()
    if options.output is not None:
        store = collect_named(
            options.name,
            options.policy,
            options.env,
            size,
            options.seed,
            options.output,
            options.workers,
            reporter,
        )
    elif named:
        request = Request(size, options.seed, options.workers, reporter)
        source = "" if options.name.startswith(ATARI) else "bundled/"
        store = open_dataset(source + options.name, request)
    else:
        raise UserError("--policy needs --output, the new store's folder")
    _print_store(store)
    print(f"checksum {store.checksum}")
    return 0


def _add_convert(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "convert",
        run_convert,
        "Write a dataset in another layout. All layouts but dqn-replay, whose rewards are clipped,"
        " read back into identical arrays.",
        "  decision-seq data convert hopper-medium --to d4rl --output hopper_medium.hdf5\n"
        "  decision-seq data convert trajectories.pkl --to parquet --output folder\n"
        "  decision-seq data convert path/to/frames --to dqn-replay --output logs",
    )
    parser.add_argument("name", metavar="NAME", help="a dataset's name or path")
    parser.add_argument(
        "--to",
        required=True,
        choices=["store", "d4rl", "minari", "parquet", "dqn-replay"],
        help="d4rl: one HDF5 file; minari, parquet, store, dqn-replay (Atari games): a folder",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new file or folder")


def run_convert(options: argparse.Namespace) -> int:
    from decision_seq.datasets import Request, open_dataset
    from decision_seq.datasets.export import convert

    reporter = make_reporter()
    store = open_dataset(options.name, Request(reporter=reporter))
    convert(store, options.to, options.output, reporter)
    print(f"{terminal(str(options.output))}: {store.num_transitions:,} transitions as {options.to}")
    return 0


def _print_store(store: Any) -> None:
    print(
        f"{terminal(str(store.path))}: {store.num_episodes:,} episodes,"
        f" {store.num_transitions:,} transitions,"
        f" return {spread_text(store.returns.mean(), store.returns.std(), group='')}"
    )
