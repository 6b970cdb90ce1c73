"""The verbs of the command line, one file each: their options, action and output.

To add a verb, write a file here with `add(verbs)` and list it in `VERBS`; a plugin registers such
a function by `decision_seq.register("verb", NAME)`. Heavy modules are imported when a verb runs, so
that `--help` is fast.
"""

from decision_seq import __version__, registries
from decision_seq.commands import (
    bench,
    completion,
    config,
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
    *(train, sweep, config, doctor, evaluate, match, predict, explain, report, sharing, data),
    *(bench, plugins, completion),
)


def build_parser() -> Parser:
    parser = Parser(
        prog="decision-seq",
        description="Offline sequence modelling for reinforcement learning.",
        epilog="Examples:\n"
        "  decision-seq train --dataset hopper-medium\n"
        "  decision-seq train --help\n"
        "  decision-seq evaluate --help\n\n"
        "`decision-seq train --help` lists the recipes and every key of the configuration.",
    )
    parser.add_argument("--version", action="version", version=f"decision-seq {__version__}")
    parser.set_defaults(root=parser)
    add_common(parser, False)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    for add in registries.VERBS.values():
        add(verbs)
    return parser
