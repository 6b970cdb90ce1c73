"""The verbs of the command line, one file each: their options, action and output.

To add a verb, write a file here with `add(verbs)` and list it in `VERBS`; a plugin registers such
a function by `decision_seq.register("verb", NAME)`. Heavy modules are imported when a verb runs, so
that `--help` is fast.
"""

from collections.abc import Callable
from typing import Any

from decision_seq import __version__
from decision_seq.commands import (
    bench,
    data,
    doctor,
    evaluate,
    explain,
    match,
    plugins,
    predict,
    report,
    sharing,
    sweep,
    train,
)
from decision_seq.commands.parsing import Parser, add_common

VERBS = (
    *(train, sweep, doctor, evaluate, match, predict, explain, report, sharing, data, bench),
    plugins,
)
PLUGIN_VERBS: dict[str, Callable[[Any], None]] = {}  # filled by `decision_seq.register`


def build_parser() -> Parser:
    parser = Parser(
        prog="decision-seq",
        description="Offline sequence modelling for reinforcement learning.",
        epilog="Example: decision-seq train --dataset hopper-medium",
    )
    parser.add_argument("--version", action="version", version=f"decision-seq {__version__}")
    add_common(parser, False)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    for add in PLUGIN_VERBS.values():
        add(verbs)
    return parser
