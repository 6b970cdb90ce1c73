"""Tests of `--help`: every verb has examples, every option a text, on any width of terminal."""

import argparse
import textwrap

import pytest

from decision_seq import cli
from decision_seq.commands import build_parser
from decision_seq.commands.help_text import help_text, usage
from decision_seq.commands.parsing import Parser, parsers_below

PARSERS = {parser.prog: parser for parser in parsers_below(build_parser())}


@pytest.mark.parametrize("prog", PARSERS)
def test_every_verb_has_an_example_and_a_description(prog: str) -> None:
    parser = PARSERS[prog]
    assert parser.description
    assert parser.description.endswith(".")
    examples = (parser.epilog or "").partition("Examples:\n")[2]
    assert prog in examples


@pytest.mark.parametrize("prog", PARSERS)
def test_every_option_has_a_text(prog: str) -> None:
    for action in PARSERS[prog]._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, action
            assert action.help in help_text(PARSERS[prog], 1000), action


def test_verbs_are_found() -> None:
    for prog in ("train", "evaluate", "data list", "bench time-to-score", "export", "sweep"):
        assert f"decision-seq {prog}" in PARSERS


@pytest.mark.parametrize("prog", PARSERS)
@pytest.mark.parametrize("width", [50, 72, 100])
def test_no_line_is_wider_than_the_terminal(prog: str, width: int) -> None:
    text = help_text(PARSERS[prog], width).partition("\nExamples:")[0]
    for line in text.splitlines():
        assert len(line) <= width or len(line.split()) == 1, line


def example() -> Parser:
    parser = Parser(prog="tool", description="A tool.", epilog="Examples:\n  tool a b")
    parser.add_argument("names", metavar="NAME", nargs="+", help="names of things")
    parser.add_argument("--to", required=True, choices=["x", "y"], help="one or the other")
    parser.add_argument("--pair", nargs=2, type=int, metavar="N", help="two numbers")
    parser.add_argument("--maybe", nargs="?", const="a", help="a value, or 50%% of one")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    group = parser.add_argument_group("more")
    group.add_argument("-q", "--quiet", action="store_true", help="say less")
    return parser


def test_the_text_of_a_help() -> None:
    assert help_text(example(), 60) == textwrap.dedent(
        """\
        usage: tool [options] NAME [NAME ...] --to {x,y}

        A tool.

        positional arguments:
          NAME [NAME ...]  names of things

        options:
          -h, --help       show this help message and exit
          --to {x,y}       one or the other
          --pair N N       two numbers
          --maybe [MAYBE]  a value, or 50% of one

        more:
          -q, --quiet  say less

        Examples:
          tool a b
        """
    )
    assert usage(example(), 30).splitlines()[1].startswith("            ")


def test_the_width_of_the_terminal_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = []
    for columns in ("60", "100", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit) as stop:
            cli.main(["match", "--help"])
        assert stop.value.code == 0
        longest.append(max(map(len, capsys.readouterr().out.partition("Examples")[0].splitlines())))
    assert longest[0] <= 60 < longest[1] <= 100
    assert longest[1] == longest[2]
