"""A verb of the command line: the returns of a dataset."""

from decision_seq import open_dataset, register
from decision_seq.commands.parsing import add_verb


@register("verb", "returns")
def add(verbs):
    parser = add_verb(
        verbs,
        "returns",
        run,
        "Print the mean and the largest return of a dataset.",
        "  decision-seq returns points.csv",
    )
    parser.add_argument("dataset", help="a dataset's name or path")


def run(options):
    returns = open_dataset(options.dataset).returns
    print(f"mean {returns.mean():.3f}, largest {returns.max():.3f}, {len(returns)} episodes")
    return 0
