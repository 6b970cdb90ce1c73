"""Tests of the score table as LaTeX and as CSV."""

import csv
import io
from pathlib import Path

import pytest

from decision_seq.cli import main
from decision_seq.report.compare import Comparison, compare
from decision_seq.report.runs import find_runs
from decision_seq.report.score_files import FIELDS, csv_table, latex_table
from tests.report.folders import BUNDLED, D4RL, write_run
from tests.report.html.pages import BC, CLONING, RETURNS

ODD = r"=1+[a]_b & 50 % $x^2$ \input{y} #1 ~ <z> * \x1b"


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    for seed in range(2):
        write_run(tmp_path / f"dt-{seed}", seed, more=RETURNS)
    write_run(tmp_path / "bc", 0, policy=BC, targets=(None,), more=CLONING)
    reacher = {"dataset": "bundled/reacher2d-medium", "source": BUNDLED, "reference": None}
    write_run(tmp_path / "reacher", 0, -1500, targets=(-3.0,), more=RETURNS, **reacher)
    return compare(find_runs([tmp_path])[0])


def test_a_line_of_the_csv_file_is_a_method_at_a_target(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(comparison))))
    assert list(rows[0]) == list(FIELDS)
    shown = [(row["dataset"], row["method"], row["target"], row["is_first_target"]) for row in rows]
    assert shown == [
        ("bundled/reacher2d-medium", "returns", "-3.0", "True"),
        ("d4rl/hopper-medium-v2", "cloning", "", "True"),
        ("d4rl/hopper-medium-v2", "returns", "3600.0", "True"),
        ("d4rl/hopper-medium-v2", "returns", "1800.0", "False"),
    ]
    for row, group in zip(rows, [*comparison.groups.values()][:3], strict=False):
        estimate = group.estimate()
        assert float(row["score"]) == estimate.mean
        assert (float(row["interval_95_low"]), float(row["interval_95_high"])) == estimate.interval
        assert (row["sample"], int(row["sample_size"])) == (estimate.over, estimate.count)
    assert [row["unit"] for row in rows] == ["return", *["normalized"] * 3]
    assert rows[-1]["data_source"] == D4RL
    assert [row["published_comparable"] for row in rows] == ["False", *["True"] * 3]


def test_the_latex_table_has_a_row_a_dataset(comparison: Comparison) -> None:
    text = latex_table(comparison)
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert lines[0] == "dataset & target & cloning & returns \\\\"
    assert len(lines) == 3
    first = comparison.groups["d4rl/hopper-medium-v2", "returns"].estimate()
    assert first.interval is not None
    low, high = first.interval
    cell = f"${first.mean:.1f}$ {{\\scriptsize $[{low:.1f},\\ {high:.1f}]$}}"
    assert " & $3{,}600$ & " in text
    assert cell in text
    raw = comparison.groups["bundled/reacher2d-medium", "returns"].estimate()
    assert f"& $-3$ & -- & ${raw.mean:,.1f}$".replace("1,", "1{,}") in text
    assert lines[-1].count("raw") + lines[1].count("raw") == 1
    assert text.count("{") == text.count("}")
    assert "%   d4rl/hopper-medium-v2, returns: 2 seeds" in text


def test_a_method_without_a_target_has_none_in_either(tmp_path: Path) -> None:
    write_run(tmp_path / "bc", policy=BC, targets=(None,))
    only = compare(find_runs([tmp_path])[0])
    assert "hopper-medium-v2 & -- & $" in latex_table(only)
    assert next(csv.DictReader(io.StringIO(csv_table(only))))["target"] == ""


def test_names_are_neither_commands_nor_formulas(tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset=ODD, source=ODD, env_id=ODD, more={"method": ODD})
    odd = compare(find_runs([tmp_path])[0])
    (row,) = (r for r in csv.DictReader(io.StringIO(csv_table(odd))) if r["target"] == "3600.0")
    for key in ("dataset", "row", "method", "environment", "data_source"):
        assert row[key] == f"'{ODD}"
    text = latex_table(odd)
    assert r"=1+{[}a]\_b \& 50 \% \$x\textasciicircum{}2\$" in text
    assert r"\textbackslash{}input\{y\} \#1 \textasciitilde{}" in text
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")


def test_the_command_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write_run(tmp_path / "run")
    tex, table = tmp_path / "new" / "scores.tex", tmp_path / "scores.csv"
    assert main(["report", str(run), "--latex", str(tex), "--csv", str(table)]) == 0
    assert "\\toprule" in tex.read_text()
    assert table.read_text().startswith("dataset,row,method")
    said = capsys.readouterr().err
    assert f"written: {tex}\nwritten: {table}\n" in said
    assert main(["report", str(run), "--latex", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
