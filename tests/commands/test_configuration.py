"""Tests of the keys of a configuration on the command line."""

import pytest

from decision_seq.commands.configuration import Override, overrides
from decision_seq.types import UserError


def test_keys_and_values_are_told_apart() -> None:
    given = ["--a.b", "1", "--c=2=3", "--d", " -4", "--e", "--f", "- x", "--g", "-", "-K", "5"]
    assert overrides(given) == [
        Override("--a.b", "a.b", "1"),
        Override("--c", "c", "2=3"),
        Override("--d", "d", " -4"),  # a negative number, as the parser marks it
        Override("--e", "e", None),
        Override("--f", "f", "- x"),  # a list in YAML
        Override("--g", "g", "-"),
        Override("-K", "-K", "5"),
    ]


def test_a_word_without_an_option_is_refused() -> None:
    with pytest.raises(UserError, match="unexpected argument 'steps'"):
        overrides(["--a", "1", "steps"])
