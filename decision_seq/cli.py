"""The command line: parses, calls, prints. A verb imports what it needs when it is called."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from decision_seq import __version__
from decision_seq.types import Bar, Reporter, UserError

BAD_INPUT = 2
DEFAULT_RECIPE = "dt/gym"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


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
            mininterval=0.2
            if interactive
            else 15.0,  # a log wants a line now and then, not ten a second
        ) as bar:
            yield bar


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 2 for bad input, 128 + signal when interrupted."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    verb: Callable[[argparse.Namespace], int] = options.run
    if rest and not options.takes_overrides:
        options.parser.error(f"unrecognised argument {rest[0]}")
    options.overrides = rest
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return verb(options)
    except UserError as error:
        if _is_main_rank():
            print(f"decision-seq: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("decision-seq: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="decision-seq",
        description="Offline sequence modelling for reinforcement learning.",
        epilog="Example: decision-seq train --dataset hopper-medium",
    )
    parser.add_argument("--version", action="version", version=f"decision-seq {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")
    _add_train(verbs)
    _add_evaluate(verbs)
    _add_data(verbs)
    _add_bench(verbs)
    return parser


def _verb(
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


def _add_train(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "train",
        run_train,
        "Train a policy on offline data, then roll it out and print its scores.",
        "  decision-seq train --dataset hopper-medium\n"
        "  decision-seq train --config dt/paper --dataset path/to/hopper_medium-v2.hdf5 --seed 1\n"
        "  decision-seq train --output runs/mine --train.steps 5000 --policy.backbone.layers 4\n"
        "  decision-seq train --output runs/mine --resume\n"
        "  ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\\n"
        "      -m decision_seq train --processes 2\n\n"
        "Any key of the configuration can be given as --key.key VALUE; a run's config.yaml lists\n"
        "them all.",
    )
    parser.set_defaults(takes_overrides=True)
    parser.add_argument(
        "--config", help=f"a YAML file or a recipe's name (default {DEFAULT_RECIPE})"
    )
    parser.add_argument("--dataset", help="a dataset's name or path (see `decision-seq data list`)")
    parser.add_argument(
        "--output", type=Path, help="the run's folder (default runs/DATASET-POLICY-seedN)"
    )
    parser.add_argument("--seed", type=int, help="of the weights, the data order and the dropout")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in --output"
    )
    parser.add_argument(
        "--processes", type=int, help="refuse to start unless so many train together"
    )
    parser.add_argument(
        "--json", action="store_true", help="print scores.json instead of the table"
    )


def _add_evaluate(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "evaluate",
        run_evaluate,
        "Roll out a checkpoint and print its scores; the dataset is not needed.",
        "  decision-seq evaluate runs/mine\n"
        "  decision-seq evaluate runs/mine/checkpoints/step-00003000 --target 3600 1800 \\\n"
        "      --episodes 100",
    )
    parser.add_argument(
        "path", type=Path, metavar="DIR", help="a run's folder or one of its checkpoints"
    )
    parser.add_argument(
        "--target", type=float, nargs="+", help="raw returns to ask for (default: the run's)"
    )
    parser.add_argument("--episodes", type=int, default=50, help="episodes a target (default 50)")
    parser.add_argument("--seed", type=int, default=10_000, help="episode i starts from seed + i")
    parser.add_argument("--env", help="a Gymnasium id (default: the run's)")
    parser.add_argument("--device", help="where the policy runs (default: CUDA if there, else CPU)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _add_data(verbs: Any) -> None:
    data = verbs.add_parser(
        "data", help="List, inspect and make datasets.", description="Datasets."
    )
    verbs = data.add_subparsers(
        dest="data_verb", required=True, parser_class=Parser, metavar="VERB"
    )
    parser = _verb(verbs, "list", run_list, "What can be opened here.", "  decision-seq data list")
    parser.add_argument("--json", action="store_true")
    parser = _verb(
        verbs,
        "inspect",
        run_inspect,
        "What is in a dataset.",
        "  decision-seq data inspect hopper-medium\n"
        "  decision-seq data inspect ~/.d4rl/datasets/hopper_medium-v2.hdf5 --json",
    )
    parser.add_argument("name", metavar="NAME", help="a dataset's name or path")
    parser.add_argument("--json", action="store_true")
    parser = _verb(
        verbs,
        "collect",
        run_collect,
        "Roll out a behaviour policy into a store that `train --dataset` takes.",
        "  decision-seq data collect hopper-medium --steps 1000000 --seed 1 --output big\n"
        "  decision-seq data collect --policy hopper_medium-v2.hdf5 --env Hopper-v4 \\\n"
        "      --steps 200000 --output regrown\n"
        "  decision-seq data collect --policy uniform --env Hopper-v4 --output random",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a bundled dataset")
    parser.add_argument(
        "--policy",
        help="a D4RL v2 file that carries its policy, a .safetensors actor, or `uniform`",
    )
    parser.add_argument("--env", help="a Gymnasium id, with --policy")
    parser.add_argument(
        "--steps", type=int, default=200_000, help="transitions, rounded up to whole episodes"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument(
        "--workers", type=int, help="processes (default one a core); the data do not depend on it"
    )
    parser.add_argument("--output", type=Path, required=True, help="the new store's folder")


def _add_bench(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "bench",
        run_bench,
        "Measure speed side by side with a peer, in one process and interleaved rounds.",
        "  decision-seq bench train\n  decision-seq bench train --rounds 30 --json",
    )
    parser.add_argument(
        "what", choices=["train"], help="train: one update, against transformers' model"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="torch threads (default: one a core)")
    parser.add_argument("--json", action="store_true")


def run_train(options: argparse.Namespace) -> int:
    from decision_seq import experiment
    from decision_seq.train import Interrupted

    reporter = _reporter()
    config, output = _configure(options)
    try:
        checkpoint = experiment.train(
            config, output, options.resume, options.processes, reporter, options.arguments
        )
    except Interrupted as stop:
        print(
            f"decision-seq: stopped by signal {stop.number}; {stop};"
            f" go on with: decision-seq train --output {output} --resume",
            file=sys.stderr,
        )
        return 128 + stop.number
    if checkpoint is None:  # not the main process
        return 0
    scores = experiment.finish(checkpoint, output, reporter)
    if scores is None:
        reporter.say(f"trained {checkpoint}; no evaluation was asked for")
    else:
        _print_scores(scores, options.json)
        reporter.say(
            f"\n{output}/: scores.json, provenance.json, metrics.jsonl, tensorboard/, checkpoints/"
        )
    return 0


def _configure(options: argparse.Namespace) -> tuple[Any, Path]:
    """The config and the run's folder that the options ask for."""
    from decision_seq import config as configs
    from decision_seq.experiment import Config

    if options.resume and options.output is None:
        raise UserError("--resume needs --output, the folder of the run to go on with")
    trees = []
    saved = options.output / "config.yaml" if options.resume else None
    if saved is not None and saved.is_file():
        trees.append(configs.read_yaml(saved))
    if options.config or not trees:
        trees.append(configs.read_yaml(recipe_path(options.config or DEFAULT_RECIPE)))
    given = {"dataset": options.dataset, "seed": options.seed}
    trees.append({key: value for key, value in given.items() if value is not None})
    trees.extend(_overrides(options.overrides))
    config = configs.load(Config, *trees)
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
    from decision_seq.evaluate import evaluate_checkpoint

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
    from decision_seq.data import describe_known
    from decision_seq.report import table

    rows = describe_known()
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        header = list(rows[0])
        print(table(header, [[str(row[key]) for key in header] for row in rows]))
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    from decision_seq.data import Request, open_dataset
    from decision_seq.data.inspection import inspect
    from decision_seq.report import inspection_text

    facts = inspect(open_dataset(options.name, Request(reporter=_reporter())))
    print(json.dumps(facts, indent=1) if options.json else inspection_text(facts))
    return 0


def run_collect(options: argparse.Namespace) -> int:
    from decision_seq.data.bundled import collect_named

    if (options.name is None) == (options.policy is None) or (options.policy and not options.env):
        raise UserError("give the NAME of a bundled dataset, or --policy FILE with --env ID")
    store = collect_named(
        options.name,
        options.policy,
        options.env,
        options.steps,
        options.seed,
        options.output,
        options.workers,
        _reporter(),
    )
    print(
        f"{store.path}: {store.num_episodes:,} episodes, {store.num_transitions:,} transitions,"
        f" return {store.returns.mean():.1f} ± {store.returns.std():.1f}"
    )
    return 0


def run_bench(options: argparse.Namespace) -> int:
    from decision_seq.bench import bench_text, bench_train

    result = bench_train(options.rounds, options.threads, _reporter())
    print(json.dumps(result, indent=1) if options.json else bench_text(result))
    return 0


def _print_scores(scores: Any, as_json: bool) -> None:
    from decision_seq.report import score_table, scores_json

    print(
        json.dumps(scores_json(scores), indent=1) if as_json else f"\n{score_table(scores)}",
        flush=True,
    )


def _is_main_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _reporter() -> Reporter:
    return Console() if _is_main_rank() else Reporter()
