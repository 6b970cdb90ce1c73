"""What a hostile or clumsy user types and edits: one line, and never another run than asked for."""

import pytest

from decision_seq import config as configs
from decision_seq.problem import Config
from decision_seq.types import UserError


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", "2020-01-01", "no whole number"),
        ("steps", "1e3", "no whole number"),
        ("clip", "2020-01-01", "no number"),
        ("clip", "1" + "0" * 400, "no number"),
        ("peak_tflops", "true", "no number"),
        ("peak_tflops", "abc", "no number"),
        ("trackers", "wandb", r"no list of names; write \[NAME\]"),
        ("trackers", "''", "no list of names"),
        ("trackers", "{}", "no list of names"),
        ("trackers", "null", "no list of names"),
        ("trackers", "[1]", "no list of names"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key: str, value: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"^config: train\.{key} .* is {said}"):
        configs.load(Config, configs.override(f"train.{key}", value))
