"""Tests of numbers and errors as text, in every table that shows returns."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from decision_seq import formatting
from decision_seq.commands.parsing import Parser
from decision_seq.datasets.catalog import _scores
from decision_seq.evaluation.held_out import (
    ClusteredMean,
    OfflineGroup,
    OfflineScores,
    offline_text,
)
from decision_seq.evaluation.scores import score
from decision_seq.formatting import (
    error_text,
    interval_text,
    json_text,
    number_text,
    target_text,
)
from decision_seq.report import calibration_text, score_table, scores_json, write_json
from decision_seq.report.compare import Estimate
from decision_seq.report.markdown import estimate_text
from decision_seq.training import best
from decision_seq.training.metrics import Metrics
from decision_seq.types import Scores, UserError

PACKAGE = Path(formatting.__file__).parent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(43.21, "43.2"), (-3234.56, "-3,234.6"), (1.04, "1.0"), (0.0, "0.0"), (-0.0, "0.0")],
        *[(-0.48, "-0.48"), (0.5, "0.5"), (0.999, "1.0"), (1e-4, "0.0001"), (0.00123, "0.0012")],
        *[
            (-1.26e-7, "-1.3e-07"),
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            (1e6, "1,000,000.0"),
        ],
    ],
)
def test_small_numbers_keep_significant_digits(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("target", "text"),
    [
        *[(3600.0, "3,600"), (-0.48, "-0.48"), (1e-4, "0.0001"), (5.0, "5"), (12.345, "12.3")],
        *[(0.0, "0"), (-0.0, "0"), (None, "-"), (-23.5, "-23.5"), (1234.5, "1,234")],
    ],
)
def test_targets_keep_what_tells_them_apart(target: float | None, text: str) -> None:
    assert target_text(target) == text


def test_signs_and_groups_are_asked_for() -> None:
    assert [number_text(v, sign="+") for v in (0.02, -12.0, 1500.0)] == [
        "+0.02",
        "-12.0",
        "+1,500.0",
    ]
    assert number_text(1500.0, group="") == "1500.0"
    assert interval_text((1500.0, 0.012)) == "[1500.0, 0.012]"
    assert interval_text(None) == "-"


def scored(scale: float) -> Scores:
    returns = scale * np.array([1.0, 2.0, 4.0])
    found = score(scale, returns, np.array([3, 3, 3]), 0, None)
    return Scores("data", "here", "Env", "run", [found], [], 1.0)


def calibrated(scale: float) -> dict[str, object]:
    point = {"target": scale, "return_mean": 2 * scale, "interval_95": (scale, 3 * scale)}
    return {
        **{"dataset": "data", "env_id": "Env", "checkpoint": "run", "episodes": 3},
        "data_return_quantiles": {"0": -scale, "50": scale, "100": 2 * scale},
        "points": [{**point, "returns": [scale, 3 * scale]}],
    }


def measured(scale: float) -> OfflineScores:
    mean = ClusteredMean(scale, (scale, 2 * scale))
    group = OfflineGroup("all", (scale, 2 * scale), 3, 9, {"accuracy": mean})
    return OfflineScores("data", "here", "run", 3, 9, [group])


SHOWN: dict[str, Callable[[float], str]] = {
    "scores": lambda scale: score_table(scored(scale)),
    "calibration": lambda scale: calibration_text(calibrated(scale)),
    "offline": lambda scale: offline_text(measured(scale)),
    "report": lambda scale: estimate_text(Estimate(scale, (scale, 2 * scale), "seeds", 3, False)),
    "normalized": lambda scale: estimate_text(Estimate(scale, None, "seeds", 3, True)),
    "catalog": lambda scale: str(_scores(None, scale)["return"]),
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize("scale", [1e-4, -0.048, 3e-9])
def test_no_table_rounds_small_returns_to_nothing(
    shown: Callable[[float], str], scale: float
) -> None:
    assert not re.search(r"(?<![\d.])-?0(\.0+)?(?![\d.e])", shown(scale))


# Parts that show returns, scores and errors; bench, doctor and fetching show seconds and bytes.
SHOWING = ("analysis", "datasets/catalog.py", "evaluate", "report", "sharing/card.py")


def test_nothing_that_is_shown_has_a_fixed_number_of_decimals() -> None:
    paths = [
        path for part in SHOWING for path in (PACKAGE / part, *(PACKAGE / part).glob("**/*.py"))
    ]
    fixed = [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for path in paths
        if path.is_file()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FormattedValue)
        and node.format_spec is not None
        and re.search(r"\.[1-9]f", ast.unparse(node.format_spec))
    ]
    # Lengths and megabytes; published numbers as published; a probability.
    known = ("length['mean']", "/ 1000000.0", "{x:,.", "i.probability", "pair.probability")
    assert [line for line in fixed if not any(word in line for word in known)] == []


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert error_text(ValueError("two\n lines")) == "two lines"
    assert error_text(NotImplementedError()) == "NotImplementedError"
    assert error_text(ValueError("x" * 500), 10) == "x" * 10


@pytest.mark.parametrize("text", ["-1e3", "-1E+3", "-.5", "-5", "-1_000.5e-2", "-inf", "-nan"])
def test_negative_numbers_are_values_of_every_parser(text: str) -> None:
    parser = Parser()
    parser.add_argument("--target", type=float, nargs="+")
    sub = parser.add_subparsers(parser_class=Parser).add_parser("verb")
    sub.add_argument("--seed", type=float)
    first = parser.parse_args(["--target", "1", text]).target
    assert str(first[1]) == str(float(text))
    options, rest = parser.parse_known_args(["verb", "--seed", text, "--evaluation.targets", text])
    assert str(options.seed) == str(float(text))
    assert rest[0] == "--evaluation.targets"
    assert rest[1].strip() == text


@pytest.mark.parametrize("text", ["-x", "--1", "-1e", "-", "-e3", "-infix"])
def test_options_are_not_taken_for_numbers(text: str) -> None:
    assert not formatting.is_negative(text)


BAD = [float("nan"), float("inf"), -float("inf"), np.float64("nan")]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_is_not_finite_is_named_and_not_written(tmp_path: Path, bad: float) -> None:
    made = score(1.0, np.array([1.0, bad, 2.0]), np.array([3, 3, 3]), 0, None)
    tree = scores_json(Scores("data", "here", "Env", "run", [made], [], 1.0))
    with pytest.raises(UserError, match=rf"targets\.0\.returns\.1 is {bad}, not a finite number"):
        write_json(tmp_path / "scores.json", tree)
    with pytest.raises(UserError, match="return_mean is"):
        best.note(tmp_path, 3, made)
    metrics = Metrics(tmp_path, 0, (), {})
    with metrics, pytest.raises(UserError, match="loss is"):
        metrics.write({"step": 1, "loss": bad})
    assert [path.read_text() for path in tmp_path.iterdir()] == [""]  # metrics.jsonl


def test_finite_results_are_written_as_before() -> None:
    tree = {"a": [1.5, None, True], "b": {"c": 1e-300}}
    assert json_text(tree) == json.dumps(tree, indent=1)
    assert json_text(tree, None) == json.dumps(tree)


# Texts that are hashed, compared or exchanged, files of facts about sources, and saved state.
NO_RESULTS = ("datasets/", "sequences/", "sharing/onnx_file.py", "bench/first_step.py")
NO_RESULTS += ("training/launch.py", "training/trainer.py", "checkpoint.py", "formatting.py")
NO_RESULTS += ("commands/failures.py", "user_choices.py", "report/html/provenance.py")


def test_results_have_one_writer() -> None:
    found = [
        f"{path}:{number}"
        for path in PACKAGE.glob("**/*.py")
        if not str(path.relative_to(PACKAGE)).startswith(NO_RESULTS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "json.dump" in line and "json.loads(json.dumps" not in line
    ]
    assert found == []
