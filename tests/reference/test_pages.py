"""The reference pages equal the code; their links lead somewhere."""

import re
from pathlib import Path

import pytest

from decision_seq.commands import build_parser
from decision_seq.commands.configuration_help import described
from decision_seq.commands.parsing import parsers_below
from decision_seq.components import keys_of
from decision_seq.recipes import recipes, tables
from decision_seq.reference.pages import FOLDER, REWRITE, anchor, pages, write

PAGES = {name: (FOLDER / name).read_text(encoding="utf-8") for name in pages()}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    same = PAGES[name] == pages()[name]()
    assert same, f"{name} is not what the code says any more; rewrite the pages by `{REWRITE}`"


def test_writing_makes_the_same_pages(tmp_path: Path) -> None:
    assert [path.name for path in write(tmp_path)] == list(PAGES)
    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8") == PAGES[path.name]


def test_every_key_is_on_its_page() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| `.+` \| .+ \|$", PAGES["configuration.md"], re.M)
    assert set(rows) == set(keys_of(described()))
    assert f"{len(described())} components, {len(set(rows))} keys:" in PAGES["configuration.md"]


def test_every_verb_and_recipe_is_on_its_page() -> None:
    for parser in parsers_below(build_parser()):
        assert f"\nusage: {parser.prog} " in PAGES["commands.md"]
    for name in (*recipes(), *tables()):
        assert f"\n## {name}\n" in PAGES["recipes.md"]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_headings_and_files(name: str) -> None:
    text = PAGES[name]
    headings = [anchor(title) for title in re.findall(r"^#+ (.+)$", _without_code(text), re.M)]
    assert len(headings) == len(set(headings))
    for target in re.findall(r"\]\(([^)]+)\)", _without_code(text)):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (FOLDER / target).is_file()


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
