"""Tests of targets given as numbers and as words."""

import numpy as np
import pytest

from decision_seq.evaluation.targets import check_targets, equal_targets, percentiles, resolve
from decision_seq.types import UserError

RETURNS = np.random.default_rng(0).normal(100.0, 30.0, 999)


def test_words_name_percentiles_of_the_data() -> None:
    known = percentiles(RETURNS)
    found = resolve(["max", "median", "q99", "q0", 3600.0], known)
    expected = [
        *(RETURNS.max(), np.median(RETURNS)),
        *(np.quantile(RETURNS, 0.99), RETURNS.min(), 3600.0),
    ]
    assert found == pytest.approx(expected, rel=1e-6)


def test_numbers_need_no_data() -> None:
    assert resolve([1, 2.5], None) == (1.0, 2.5)
    with pytest.raises(UserError, match=r"'max'.*give a number"):
        resolve(["max"], None)


@pytest.mark.parametrize("bad", ["q101", "q", "qq", "best", "", "q-1", float("nan"), float("inf")])
def test_anything_else_is_refused_by_name(bad: float | str) -> None:
    with pytest.raises(UserError, match="is no return"):
        check_targets([100.0, bad], "--target")


def test_equal_targets_are_taken_once_in_their_order() -> None:
    known = percentiles(np.array([1.0, 5.0, 5.0]))
    asked = ["max", 7.0, "median", 7, "q0"]
    assert resolve(asked, known) == (5.0, 7.0, 1.0)
    said = "targets: max and median are 5, 7 and 7 are 7; rolled out once"
    assert equal_targets(asked, known) == said
    assert equal_targets(["max", 7.0], known) is None
