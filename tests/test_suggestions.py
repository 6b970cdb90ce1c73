"""Tests of the suggestions for unknown keys."""

import pytest

from decision_seq.cli import main
from decision_seq.config import config_classes, flat, load, override, to_tree
from decision_seq.runs.resolve import Config
from decision_seq.suggestions import SYNONYMS, suggestion
from decision_seq.types import UserError

KNOWN = list(flat(to_tree(Config())))


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        *[("lr", "train.learning_rate"), ("train.lr", "train.learning_rate")],
        *[("steps", "train.steps"), ("max_iters", "train.steps"), ("K", "policy.context_length")],
        *[("batch_size", "train.batch_size"), ("layers", "policy.backbone.layers")],
        *[("n_layer", "policy.backbone.layers"), ("policy.n_head", "policy.backbone.heads")],
        *[("policy.layers", "policy.backbone.layers"), ("embed_dim", "policy.backbone.width")],
        *[("grad-norm-clip", "train.clip"), ("scale", "conditioning.scale")],
        *[("env_name", "evaluation.env_id"), ("target_return", "evaluation.targets")],
        *[("stepz", "train.steps"), ("train.stepz", "train.steps"), ("polcy", "policy")],
        *[("learning_rat", "train.learning_rate"), ("evaluation.episode", "evaluation.episodes")],
        *[
            ("evaluation.env", "evaluation.env_id"),
            ("policy.backbone.widht", "policy.backbone.width"),
        ],
        *[("trian.steps", "train"), ("policy.dropot", "policy.backbone.dropout")],
        ("precision", "train.precision or evaluation.precision"),
    ],
)
def test_an_unknown_key_gets_the_one_that_is_meant(unknown: str, meant: str) -> None:
    with pytest.raises(UserError) as refused:
        load(Config, override(unknown, "1"))
    first = unknown if unknown.split(".")[0] in KNOWN else str(refused.value).split()[3].strip(";")
    assert str(refused.value) == f"config: unknown key {first}; did you mean {meant}?"


def test_the_chosen_components_keys_are_suggested() -> None:
    with pytest.raises(UserError, match=r"did you mean policy\.layers\?"):
        load(Config, {"policy": {"name": "bc"}, "conditioning": {"name": "none"}, "layers": 1})


def test_where_nothing_is_near_the_keys_are_listed() -> None:
    assert suggestion("zzz", KNOWN).startswith("there are dataset, method, unfinished")
    assert suggestion("conditioning.zzz", KNOWN).startswith("there are conditioning.name, ")


def test_the_table_names_keys_that_exist() -> None:
    fields = {key for cls in config_classes(Config) for key in cls.__dataclass_fields__} | {"name"}
    for name in SYNONYMS.values():
        assert name in KNOWN if "." in name else name in fields, name


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--lr", "1e-3"]) == 2
    said = capsys.readouterr().err
    assert said == "decision-seq: config: unknown key lr; did you mean train.learning_rate?\n"
