"""Tests of names from strangers, in terminals, Markdown and plots."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from decision_seq import checkpoint
from decision_seq.cli import main
from decision_seq.console import Console
from decision_seq.escaping import (
    block,
    code,
    latex,
    markdown,
    page,
    picture,
    spreadsheet,
    terminal,
)
from decision_seq.report import score_table, table
from decision_seq.report.plots import plot_returns
from decision_seq.report.runs import read_run
from decision_seq.sharing.card import card
from decision_seq.types import UserError
from tests.conftest import seal
from tests.report.folders import write_run

FORGED = "x\ndecision-seq: forged \x1b]0;title\x07\x1b[2K\r\x9b31m \u202eesrever\u2028z"
MARKUP = "a|b `c` ![d](http://x.test/e.png) <img src=x onerror=alert(1)> [f](javascript:g)"
FORMULA = r"$\foo$ and $\bar$"


def test_what_cannot_be_printed_is_shown_as_an_escape() -> None:
    shown = terminal(FORGED)
    assert shown.isprintable()
    assert shown.startswith(r"x\ndecision-seq: forged \x1b]0;title\x07\x1b[2K\r\x9b31m \u202e")
    assert terminal("43.2 ± 1, █, größer") == "43.2 ± 1, █, größer"
    assert terminal("a\n\x1bb", lines=True) == "a\n\\x1bb"
    assert terminal("\udc80") == r"\udc80"  # a byte of a path that is not UTF-8


def test_messages_hold_no_control_characters(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console()
    console.say(FORGED)
    with console.bar(FORGED, "step", 1):
        console.say(FORGED)

    def fail(*_: object) -> None:
        raise UserError(FORGED)

    monkeypatch.setattr("decision_seq.datasets.open_dataset", fail)
    assert main(["data", "inspect", "x"]) == 2
    printed = capsys.readouterr().err
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2028]", printed)
    assert sum(line.startswith("decision-seq: ") for line in printed.splitlines()) == 1


def test_a_table_of_forged_names_has_its_rows() -> None:
    text = table(["name", "n"], [[FORGED, "1"], ["b", "2"]])
    assert len(text.splitlines()) == 4
    assert not re.search(r"[\x1b\x9b\u202e]", text)


def test_scores_of_forged_names(tmp_path: Path) -> None:
    names = {"dataset": FORGED, "source": FORGED, "env_id": FORGED}
    run = read_run(write_run(tmp_path / "run", **names))
    plain = read_run(write_run(tmp_path / "plain"))
    assert len(score_table(run.scores).split("\n")) == len(score_table(plain.scores).split("\n"))


def harmless(text: str) -> bool:
    """Whether nothing of MARKUP is markup: every special character follows a backslash."""
    spans = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", text))
    return not re.search(r"[`<>|]|!\[|\]\(|https?://|www\.", spans)


def test_markdown() -> None:
    assert harmless(markdown(MARKUP))
    assert not harmless(MARKUP)
    assert "\n" not in markdown(FORGED)
    assert markdown("hopper-medium_v2, 3.5 (seed 1)") == "hopper-medium_v2, 3.5 (seed 1)"
    assert code("a``b`") == "``` a``b` ```"
    assert block("x\n````\ny", "yaml").splitlines()[0] == "`````yaml"


@pytest.mark.parametrize("name", ["dataset", "source", "env_id"])
def test_reports_hold_no_markup_of_others(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = write_run(tmp_path / "runs" / MARKUP.replace("/", ":"), **{name: f"{MARKUP} {FORMULA}"})
    assert main(["report", str(run), "--output", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "report.md").read_text()
    assert "img src" in written
    assert "<img" not in re.sub(r"\\.", "", written)
    assert "](http" not in re.sub(r"\\.", "", written)
    for rows in re.findall(r"(?m)(?:^\|.*\n)+", re.sub(r"\\.", "", written)):
        assert len({row.count("|") for row in rows.splitlines()}) == 1, rows
    assert "](http" not in re.sub(r"\\.", "", capsys.readouterr().out)


def test_cards_hold_no_markup_of_others(make_checkpoint: Callable[..., Path]) -> None:
    path = make_checkpoint()
    file = path / "config.yaml"
    file.write_text(
        file.read_text()
        .replace("dataset: hopper-medium", f"dataset: {json.dumps(MARKUP)}")
        .replace("source: a test", f"source: {json.dumps(MARKUP + FORGED)}")
        .replace("env_id: Hopper-v4", f"env_id: {json.dumps(MARKUP)}")
    )
    head, text = card_of(seal(path))
    assert "img src" in text
    for line in text.splitlines():
        assert harmless(line) or line.startswith("```") or ("`" in line and "img" not in line), line
    assert "\u202e" not in text
    assert "\x1b" not in head + text


def card_of(path: Path) -> tuple[str, str]:
    """The head and the text of a card, the latter up to its own instructions."""
    _, head, text = card(checkpoint.load(path), "checkpoint").split("---\n", 2)
    return head, text.partition("## Use")[0]


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """A false formula would be an error of matplotlib's parser."""
    figure = Figure()
    shown = figure.suptitle(picture(FORMULA))
    figure.savefig(tmp_path / "x.png")
    assert shown._preprocess_math(picture(FORMULA)) == (FORMULA, False)
    plot_returns(FORMULA, [1.0, 2.0], [1.0], tmp_path / "y.png")
    assert (tmp_path / "y.png").stat().st_size > 0


def test_text_for_latex_holds_no_command() -> None:
    assert latex(r"a_b\c{d}") == r"a\_b\textbackslash{}c\{d\}"
    assert latex('[x] "y" *') == "{[}x] {''}y{''} {*}"
    assert latex("\x1b") == r"\textbackslash{}x1b"


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@x", "  =1"])
def test_text_for_a_spreadsheet_is_no_formula(name: str) -> None:
    assert spreadsheet(name) == f"'{name}"
    assert spreadsheet(f"a{name}") == f"a{name}"
    assert spreadsheet(f"{name}\t\r") == rf"'{name}\t\r"


def test_values_for_a_page_are_printable_text_or_markup() -> None:
    class Markup(str):
        def __html__(self) -> str:
            return self

    made = Markup("<b>\x1b</b>")
    assert page(made) is made
    assert page(FORGED) == terminal(FORGED)
    assert page(Path("a\x1b")) == r"a\x1b"
    assert page(4.5) == "4.5"
