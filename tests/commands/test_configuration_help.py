"""Tests of `train --help`: all keys and recipes, one component in full, unknown names."""

import json
from dataclasses import dataclass

import pytest

from decision_seq import cli
from decision_seq.commands.configuration_help import (
    described,
    first_sentence,
    keys_text,
    named_text,
    recipes_text,
)
from decision_seq.models.backbones.base import BackboneConfig
from decision_seq.recipes import recipes


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["train", "--help", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_everything_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = helped(capsys)
    lines = text.splitlines()
    for one in described():
        assert f"\n{one.address or 'the run'}: " in text
        for key in one.own:
            rows = [line for line in lines if line.startswith(f"    {key.name} ")]
            assert any(key.default in row for row in rows)
            assert first_sentence(key.meaning).split()[-1] in text
    for name in recipes():
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    assert max(map(len, lines)) <= 100
    assert "Examples:\n" in text


def test_no_line_is_wider_than_the_terminal() -> None:
    found = described()
    for width in (60, 80, 100):
        texts = [keys_text(found, width), recipes_text(width)]
        texts += [named_text(found, one.address, width) for one in found if one.address]
        for line in "\n".join(texts).splitlines():
            assert len(line) <= max(width, 76), line  # a row of the columns needs so many


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("policy", "policy: The policy and its hyper-parameters. One of bc, "),
        ("policy.tt", "policy.tt: Settings of a Trajectory Transformer."),
        ("train", "train: The optimizer and the training loop."),
        ("train.optimizer.lamb", "train.optimizer.lamb: LAMB (You et al., 2020), from pytorch-"),
        ("conditioning.outcome", "conditioning.outcome: Labels (reward, value). In a rollout "),
        ("evaluation", "evaluation: The evaluation by rollouts."),
        ("learning_rate", "train:"),
    ],
)
def test_one_component_is_shown_in_full(
    name: str, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert helped(capsys, name).startswith(first)


def test_a_component_has_its_inherited_keys_and_parts_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = helped(capsys, "policy.bdt")
    for name in ("context_length", "backbone.name", "summary.name", "summary_size"):
        assert f"    policy.{name} " in text
    assert "\nparts:\n  policy.auxiliary  Auxiliary losses" in text
    # The whole meaning, not only its first sentence.
    assert "With `windows segments` consecutive windows overlap by them." in " ".join(text.split())


def test_a_key_is_shown_with_its_component(capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, "train.learning_rate") == (
        "train:\n"
        "    train.learning_rate               1e-4           number\n"
        "        Learning rate after the warm-up.\n"
    )
    assert "policy.backbone.lstm:\n    policy.backbone.width " in helped(capsys, "width")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("nothing", "`decision-seq train --help` lists all keys"),
        ("lr", "did you mean train.learning_rate?"),
        ("policy.tr", "`decision-seq train --help` lists all keys"),
        ("evaluatoin", "did you mean evaluation?"),
    ],
)
def test_an_unknown_name_is_refused(
    name: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--help", name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"decision-seq: no component or key is called {name!r}; {end}\n"


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads(helped(capsys, "--json"))
    assert len(tree) == len(described())
    (tt,) = json.loads(helped(capsys, "policy.tt", "--json"))
    assert tt["address"] == "policy.tt"
    assert {"name": "policy.bins", "kind": "whole number", "default": "100"}.items() <= next(
        key for key in tt["keys"] if key["name"] == "policy.bins"
    ).items()


def test_a_component_of_a_plugin_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    @BackboneConfig.register_subclass("of_a_plugin")
    @dataclass(frozen=True)
    class Theirs(BackboneConfig):
        """A backbone from elsewhere."""

        gates: int = 4
        """Number of gates."""
        silent: int = 1

    try:
        text = helped(capsys)
        assert "policy.backbone.of_a_plugin: A backbone from elsewhere.\n" in text
        assert "    policy.backbone.gates             4              whole number\n" in text
        assert "        (no description)\n" in helped(capsys, "of_a_plugin")
        assert cli.main(["train", "--gates", "1", "--policy.backbone.name", "of_a_plugin"]) == 2
        assert "did you mean --policy.backbone.gates 4?" in capsys.readouterr().err
    finally:
        del BackboneConfig.get_known_choices()["of_a_plugin"]


def test_first_sentences() -> None:
    assert first_sentence("One. Two.") == "One."
    assert first_sentence("By Chen et al., 2021. `x` too.") == "By Chen et al., 2021."
    assert first_sentence("0 is e.g. none") == "0 is e.g. none"
