"""`decision-seq export`, `import` and `push`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decision_seq.commands.console import make_reporter
from decision_seq.commands.parsing import add_checkpoint, add_verb


def add(verbs: Any) -> None:
    _add_export(verbs)
    _add_import(verbs)
    _add_push(verbs)


def _add_export(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "export",
        run_export,
        "Export a policy for other programs: transformers, ONNX.",
        "  decision-seq export runs/mine --to transformers --output mine-hf\n"
        "  decision-seq export runs/mine --to onnx --output mine.onnx",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--to",
        required=True,
        choices=["transformers", "onnx", "checkpoint"],
        help="transformers: a folder for DecisionTransformerModel.from_pretrained; onnx: one file;"
        " checkpoint: our format without the optimiser, and a model card",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new folder or file")


def run_export(options: argparse.Namespace) -> int:
    from decision_seq.sharing.exporting import export

    print(f"written: {export(options.path, options.to, options.output, make_reporter())}")
    return 0


def _add_import(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "import",
        run_import,
        "Make a checkpoint from a Decision Transformer that another program trained.",
        "  decision-seq import edbeeching/decision-transformer-gym-hopper-medium --output policy\n"
        "  decision-seq import dt_checkpoint.pt --dataset d4rl/hopper-medium-v2 --output policy\n"
        "  decision-seq evaluate policy",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of transformers, OWNER/NAME on the Hub, or a state dict of"
        " kzl/decision-transformer or CORL",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new checkpoint's folder")
    parser.add_argument("--dataset", help="the data it was trained on: statistics, scale and task")
    parser.add_argument("--env-id", help="the Gymnasium id to evaluate in")
    parser.add_argument(
        "--state-mean", type=Path, metavar="FILE", help="mean of the states: a .npy or text file"
    )
    parser.add_argument(
        "--state-std",
        type=Path,
        metavar="FILE",
        help="divisor of the states: a .npy or text file",
    )
    parser.add_argument("--return-scale", type=float, help="number that divides returns-to-go")
    parser.add_argument("--target", type=float, nargs="+", help="target returns, raw")
    parser.add_argument("--context-length", type=int, help="K, the steps of a training window")
    parser.add_argument("--heads", type=int, help="attention heads, which no tensor's shape shows")


def run_import(options: argparse.Namespace) -> int:
    from decision_seq.envs import trust
    from decision_seq.sharing.importing import Given, import_policy

    trust(options.env_id or "")
    given = Given(
        dataset=options.dataset,
        env_id=options.env_id,
        state_mean=options.state_mean,
        state_std=options.state_std,
        return_scale=options.return_scale,
        targets=tuple(options.target) if options.target else None,
        context_length=options.context_length,
        heads=options.heads,
    )
    print(f"written: {import_policy(options.source, options.output, given, make_reporter())}")
    return 0


def _add_push(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "push",
        run_push,
        "Upload a policy and its model card to the Hugging Face Hub.",
        "  HF_TOKEN=... decision-seq push runs/mine OWNER/NAME\n"
        "  decision-seq push runs/mine OWNER/NAME --as checkpoint --private",
    )
    add_checkpoint(parser)
    parser.add_argument("repo", metavar="REPO_ID", help="OWNER/NAME, created if it does not exist")
    parser.add_argument(
        "--as",
        dest="form",
        choices=["transformers", "checkpoint"],
        default="transformers",
        help="format, as in `export --to` (default transformers)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")


def run_push(options: argparse.Namespace) -> int:
    from decision_seq.sharing.push import push

    print(push(options.path, options.repo, options.form, options.private, make_reporter()))
    return 0
