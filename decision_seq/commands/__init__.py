"""The command line's verbs, one file each: what can be typed, what it does, what it prints.

To add one: a file here with `add(verbs)`, and its name in `VERBS`. What is heavy is imported when a
verb runs, so that `--help` is quick.
"""

from decision_seq import __version__
from decision_seq.commands import (
    bench,
    data,
    doctor,
    evaluate,
    explain,
    match,
    predict,
    report,
    sharing,
    sweep,
    train,
)
from decision_seq.commands.parsing import Parser

VERBS = (train, sweep, doctor, evaluate, match, predict, explain, report, sharing, data, bench)


def build_parser() -> Parser:
    parser = Parser(
        prog="decision-seq",
        description="Offline sequence modelling for reinforcement learning.",
        epilog="Example: decision-seq train --dataset hopper-medium",
    )
    parser.add_argument("--version", action="version", version=f"decision-seq {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
