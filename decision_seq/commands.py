"""What the command line's verbs do: call, then print. A verb imports what it needs when called."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decision_seq.types import Bar, Reporter, UserError

DEFAULT_RECIPE = "dt/gym"
BAD_INPUT = 2


class Console(Reporter):
    """News and progress bars on standard error, so that standard output holds results alone."""

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, what: str, unit: str, total: int, initial: int = 0) -> Iterator[Bar]:
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        with tqdm(
            total=total,
            initial=initial,
            desc=what,
            unit=f" {unit}",
            unit_scale=total >= 10_000,
            dynamic_ncols=interactive,
            ncols=None if interactive else 100,
            mininterval=0.2 if interactive else 15.0,  # a log wants a line now and then
        ) as bar:
            yield bar


def run_train(options: argparse.Namespace) -> int:
    from decision_seq import experiment
    from decision_seq.train import Interrupted

    reporter = _reporter()
    config, output = _configure(options)
    try:
        finished = experiment.train(
            config, output, options.resume, options.processes, reporter, options.arguments
        )
    except Interrupted as stop:
        reporter.say(
            f"decision-seq: stopped by signal {stop.number}; {stop};"
            f" go on with: decision-seq train --output {output} --resume"
        )
        return 128 + stop.number
    reporter.say(f"written: {output}/")
    if finished is not None and finished.scores is not None:  # else not the main process
        _print_scores(finished.scores, options.json)
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from decision_seq import doctor

    config, output = _configure(options)
    checks = doctor.examine(config, output, options.processes, _reporter())
    if is_main_rank():
        rows = [asdict(check) for check in checks]
        print(json.dumps(rows, indent=1) if options.json else doctor.checks_text(checks))
    return BAD_INPUT if doctor.failed(checks) else 0


def _configure(options: argparse.Namespace) -> tuple[Any, Path]:
    """The config and the run's folder that the options ask for."""
    from decision_seq import config as configs
    from decision_seq.envs import trust
    from decision_seq.problem import Config
    from decision_seq.run_folder import is_run

    if options.resume != "never" and options.output is None:
        raise UserError("--resume needs --output, the folder of the run to go on with")
    trees = []
    resumed = options.resume != "never" and is_run(options.output)
    if resumed:
        trees.append(configs.read_yaml(options.output / "config.yaml"))
    if options.config or not trees:
        trees.append(configs.read_yaml(recipe_path(options.config or DEFAULT_RECIPE)))
    given = {"dataset": options.dataset, "seed": options.seed}
    trees.append({key: value for key, value in given.items() if value is not None})
    trees.extend(_overrides(options.overrides))
    config = configs.load(Config, *trees)
    asked = trees[1:] if resumed else trees
    if any("env_id" in (tree.get("evaluation") or {}) for tree in asked):
        trust(config.evaluation.env_id or "")  # a saved one may be what the data named
    return config, options.output or _default_output(config)


def recipe_path(name: str) -> Path:
    """A YAML file by its path, or a recipe of `experiments/` by its name, such as `dt/paper`."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    package = Path(__file__).parent
    folders = [package / "experiments", package.parent / "experiments"]  # installed, or a checkout
    found = [folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()]
    if not found:
        known = sorted(
            str(path.relative_to(folder).with_suffix(""))
            for folder in folders
            for path in folder.glob("**/*.yaml")
        )
        raise UserError(
            f"no recipe is called {name!r}; there are {', '.join(known)}, or give a .yaml file"
        )
    return found[0]


def _overrides(arguments: list[str]) -> list[dict[str, Any]]:
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


def _default_output(config: Any) -> Path:
    """runs/DATASET-POLICY-seedN, with a number behind it when that is taken."""
    from decision_seq.config import to_tree

    data = Path(config.dataset).stem if "." in config.dataset else config.dataset.replace("/", "-")
    base = f"{data}-{to_tree(config)['policy']['name']}-seed{config.seed}"
    number = 1
    while (path := Path("runs") / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return path


def run_evaluate(options: argparse.Namespace) -> int:
    from decision_seq.envs import trust
    from decision_seq.evaluate import evaluate_checkpoint

    trust(options.env or "")
    scores = evaluate_checkpoint(
        options.path,
        targets=options.target,
        episodes=options.episodes,
        seed=options.seed,
        env_id=options.env,
        device=options.device,
        reporter=_reporter(),
    )
    _print_scores(scores, options.json)
    return 0


def run_list(options: argparse.Namespace) -> int:
    from decision_seq.data.catalog import catalog
    from decision_seq.report import table

    rows = catalog(options.source)
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    header = list(rows[0]) if rows else ["name"]
    text = [["-" if row[key] is None else str(row[key]) for key in header] for row in rows]
    print(table(header, text))
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    from decision_seq.data import Request, open_dataset
    from decision_seq.data.inspection import inspect
    from decision_seq.report import inspection_text, plot_returns

    reporter = _reporter()
    store = open_dataset(options.name, Request(reporter=reporter))
    facts = inspect(store, reporter)
    if options.plot:
        plot_returns(store.name, store.returns, facts["suggested_targets"], options.plot)
        reporter.say(f"written: {options.plot}")
    print(json.dumps(facts, indent=1) if options.json else inspection_text(facts))
    return 0


def run_fetch(options: argparse.Namespace) -> int:
    from decision_seq.data import Request, open_dataset

    for name in options.names:
        _print_store(open_dataset(name, Request(reporter=_reporter())))
    return 0


def run_convert(options: argparse.Namespace) -> int:
    from decision_seq.data import Request, open_dataset
    from decision_seq.data.export import convert

    reporter = _reporter()
    store = open_dataset(options.name, Request(reporter=reporter))
    convert(store, options.to, options.output, reporter)
    print(f"{options.output}: {store.num_transitions:,} transitions as {options.to}")
    return 0


def run_collect(options: argparse.Namespace) -> int:
    from decision_seq.data import Request, open_dataset
    from decision_seq.data.bundled import DEFAULT_SIZE, collect_named
    from decision_seq.data.collection import Size

    named = options.name is not None
    if named == (options.policy is not None) or named == (options.env is not None):
        raise UserError("give the NAME of a bundled dataset, or --policy FILE with --env ID")
    size = DEFAULT_SIZE if options.steps is None else Size(options.steps)
    if options.episodes is not None:
        size = Size(options.episodes, "episode")
    reporter = _reporter()
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
        store = open_dataset(f"bundled/{options.name}", request)
    else:
        raise UserError("--policy needs --output, the new store's folder")
    _print_store(store)
    print(f"checksum {store.checksum}")
    return 0


def _print_store(store: Any) -> None:
    print(
        f"{store.path}: {store.num_episodes:,} episodes, {store.num_transitions:,} transitions,"
        f" return {store.returns.mean():.1f} ± {store.returns.std():.1f}"
    )


def run_bench(options: argparse.Namespace) -> int:
    if options.what == "data":
        from decision_seq.bench.data import bench_data, data_text

        result, text = bench_data(options.transitions, _reporter()), data_text
    elif options.what == "steps":
        from decision_seq.bench.steps import bench_steps, steps_text

        result, text = bench_steps(options.rounds, options.threads, _reporter()), steps_text
    else:
        from decision_seq.bench.training import bench_text, bench_train

        result, text = bench_train(options.rounds, options.threads, _reporter()), bench_text
    print(json.dumps(result, indent=1) if options.json else text(result))
    return 0


def _print_scores(scores: Any, as_json: bool) -> None:
    from decision_seq.report import score_table, scores_json

    print(
        json.dumps(scores_json(scores), indent=1) if as_json else f"\n{score_table(scores)}",
        flush=True,
    )


def speaks_of_itself(error: UserError) -> str | None:
    """What this process puts before an error's line; None where another one prints it."""
    if is_main_rank():
        return ""
    if "torch" not in sys.modules:
        return None
    from decision_seq.train.launch import OfOneRank

    return f"rank {os.environ['RANK']}: " if isinstance(error, OfOneRank) else None


def is_main_rank() -> bool:
    # A RANK that was left over in a shell makes nobody silent.
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def _reporter() -> Reporter:
    return Console() if is_main_rank() else Reporter()
