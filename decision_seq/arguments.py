"""What can be typed: the verbs, their options, an example for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from decision_seq import __version__, commands
from decision_seq.commands import BAD_INPUT


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="decision-seq",
        description="Offline sequence modelling for reinforcement learning.",
        epilog="Example: decision-seq train --dataset hopper-medium",
    )
    parser.add_argument("--version", action="version", version=f"decision-seq {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")
    _add_train(verbs)
    _add_doctor(verbs)
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
        commands.run_train,
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
    _add_run_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="must",
        default="never",
        choices=["must", "auto", "never"],
        help="go on from --output's newest checkpoint; `auto`: or begin, where there is no run",
    )
    parser.add_argument(
        "--json", action="store_true", help="print scores.json instead of the table"
    )


def _add_doctor(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "doctor",
        commands.run_doctor,
        "Check, before a long job, that this launch would train as it should; begins no run.",
        "  decision-seq doctor --dataset hopper-medium --output runs/mine\n"
        "  decision-seq doctor --config dt/paper --train.batch_size 512 --json\n"
        "  ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\\n"
        "      -m decision_seq doctor --processes 2\n\n"
        "Give it the launcher and the options of the job itself. Exit code 2 when a check failed.",
        resume="never",
    )
    _add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """What says which run it is; any other key of the configuration can be given too."""
    parser.set_defaults(takes_overrides=True)
    parser.add_argument(
        "--config", help=f"a YAML file or a recipe's name (default {commands.DEFAULT_RECIPE})"
    )
    parser.add_argument("--dataset", help="a dataset's name or path (see `decision-seq data list`)")
    parser.add_argument(
        "--output", type=Path, help="the run's folder (default runs/DATASET-POLICY-seedN)"
    )
    parser.add_argument("--seed", type=int, help="of the weights, the data order and the dropout")
    parser.add_argument(
        "--processes", type=int, help="refuse to start unless so many train together"
    )


def _add_evaluate(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "evaluate",
        commands.run_evaluate,
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
    _add_list(verbs)
    _add_inspect(verbs)
    _add_fetch(verbs)
    _add_collect(verbs)
    _add_convert(verbs)


def _add_list(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "list",
        commands.run_list,
        "Every dataset by name: its source and size, and whether it is here.",
        "  decision-seq data list\n  decision-seq data list --source bundled --json",
    )
    parser.add_argument(
        "--source", choices=["bundled", "d4rl", "minari", "store"], help="only these"
    )
    parser.add_argument("--json", action="store_true")


def _add_inspect(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "inspect",
        commands.run_inspect,
        "What is in a dataset, and what is wrong with it.",
        "  decision-seq data inspect hopper-medium --plot returns.png\n"
        "  decision-seq data inspect ~/.d4rl/datasets/hopper_medium-v2.hdf5 --json",
    )
    parser.add_argument("name", metavar="NAME", help="a dataset's name or path")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the returns' histogram")
    parser.add_argument("--json", action="store_true")


def _add_fetch(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "fetch",
        commands.run_fetch,
        "Get datasets and make their stores, so that training needs no network.",
        "  decision-seq data fetch d4rl/hopper-medium-v2 d4rl/walker2d-medium-v2\n"
        "  decision-seq data fetch minari/mujoco/hopper/medium-v0\n"
        "  DECISION_SEQ_D4RL_URL=http://mirror/d4rl decision-seq data fetch d4rl/pen-human-v1",
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="datasets' names")


def _add_collect(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "collect",
        commands.run_collect,
        "Roll out a behaviour policy into a store that `train --dataset` takes.",
        "  decision-seq data collect hopper-medium\n"
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
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--steps", type=int, help="transitions, rounded up to whole episodes (default 200000)"
    )
    size.add_argument("--episodes", type=int, help="so many episodes instead")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument(
        "--workers", type=int, help="processes (default one a core); the data do not depend on it"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the new store's folder (default, with NAME: where `train` looks for it)",
    )


def _add_convert(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "convert",
        commands.run_convert,
        "Write a dataset out in another layout; every one reads back into identical arrays.",
        "  decision-seq data convert hopper-medium --to d4rl --output hopper_medium.hdf5\n"
        "  decision-seq data convert trajectories.pkl --to parquet --output folder",
    )
    parser.add_argument("name", metavar="NAME", help="a dataset's name or path")
    parser.add_argument(
        "--to",
        required=True,
        choices=["store", "d4rl", "minari", "parquet"],
        help="d4rl: one HDF5 file; minari, parquet, store: a folder",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new file or folder")


def _add_bench(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "bench",
        commands.run_bench,
        "Measure speed: of an update beside a peer's, or of a large store.",
        "  decision-seq bench train\n"
        "  decision-seq bench train --rounds 30 --json\n"
        "  decision-seq bench steps\n"
        "  decision-seq bench data --transitions 20000000",
    )
    parser.add_argument(
        "what",
        choices=["train", "steps", "data"],
        help="train: one update, against transformers' model in interleaved rounds; steps: whole"
        " training steps, against it fed by a loop; data: opening, memory and windows a second of a"
        " store",
    )
    parser.add_argument("--rounds", type=int, default=15, help="of train and steps")
    parser.add_argument(
        "--threads", type=int, help="of torch, for train and steps (default: one a core)"
    )
    parser.add_argument(
        "--transitions", type=int, default=1_000_000, help="of data; 64 bytes each on the disk"
    )
    parser.add_argument("--json", action="store_true")
