"""Tests of the texts of recipes and tables."""

from pathlib import Path

import pytest
import yaml

from decision_seq.config import read_yaml
from decision_seq.recipes import description, recipes, settings, tables

FILES = {**recipes(), **tables()}


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_begins_with_a_summary_of_one_line(name: str) -> None:
    first, _ = description(FILES[name])
    assert first.endswith((".", "?"))
    assert 20 <= len(first) <= 80


@pytest.mark.parametrize("name", FILES)
def test_its_settings_are_the_rest(name: str) -> None:
    assert yaml.safe_load(settings(FILES[name])) == read_yaml(FILES[name])
    assert not settings(FILES[name]).startswith("#")


def test_a_file_without_a_comment_has_no_summary(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1  # mine\n# not at the top\n")
    assert description(path) == ("", "")
    assert settings(path) == "seed: 1  # mine\n# not at the top"
    path.write_text("# First.\n# Second,\n# third.\n\nseed: 1\n")
    assert description(path) == ("First.", "Second,\nthird.")
    assert settings(path) == "seed: 1"
