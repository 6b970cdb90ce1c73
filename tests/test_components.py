"""Tests of the configuration described in words."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import draccus
import pytest

from decision_seq.components import Component, components, find, keys_of, kind_text
from decision_seq.config import flat, load, to_tree
from decision_seq.runs.resolve import Config

FOUND = components(Config)
NAMED = {one.address: one for one in FOUND}


@pytest.mark.parametrize("one", FOUND, ids=lambda one: one.address or "run")
def test_every_component_and_key_has_a_meaning(one: Component) -> None:
    assert one.meaning.endswith(".")
    for key in one.keys:
        assert key.meaning.endswith((".", ".)")), key.name
        assert key.kind, key.name
        assert key.default, key.name


def test_every_key_of_every_choice_is_described() -> None:
    """The keys of the whole configuration, with each entry of each registry in its place."""
    described = set(keys_of(FOUND))
    for one in FOUND:
        if one.entries:
            for entry in one.entries:
                name = entry.rpartition(".")[2]
                if one.place == "policy.auxiliary.LABEL":
                    continue  # has no place of its own in a configuration
                made = _chosen(one.place, name)
                if made is not None:
                    missing = set(flat(to_tree(made))) - described
                    assert {
                        key for key in missing if not key.startswith("policy.summary.")
                    } == set()


def _chosen(place: str, name: str) -> Config | None:
    """A configuration with the entry in its place; None where no default policy has the place."""
    tree: dict[str, Any] = {"name": name}
    for part in reversed(place.split(".")):
        tree = {part: tree}
    also: dict[str, Any] = {}
    if place == "policy.critic":
        also = {"policy": {"name": "tt"}, "conditioning": {"name": "outcome"}}
    for conditioning in (None, "none", "return", "outcome"):
        fitting = {"conditioning": {"name": conditioning}} if conditioning else {}
        try:
            return load(Config, also, tree, fitting)
        except Exception:
            continue
    raise AssertionError(f"no conditioning suits {place}.{name}")


def test_defaults_are_those_of_the_configuration() -> None:
    keys = keys_of(FOUND)
    assert keys["train.learning_rate"].default == "1e-4"
    assert keys["train.betas"].default == "[0.9, 0.999]"
    assert keys["train.optimizer.eps"].default == "1e-8"
    assert keys["delayed"].default == "false"
    assert keys["evaluation.env_id"].default == "null"
    assert keys["policy.name"].default == "dt"
    assert keys["policy.name"].choices == ("bc", "dt", "bdt", "return_predictor", "tt")


def test_a_component_tells_its_own_keys_from_those_of_its_base() -> None:
    bdt = NAMED["policy.bdt"]
    assert bdt.like == "policy.dt"
    assert {key.name for key in bdt.own} == {"policy.summary.name", "policy.summary_size"}
    assert {key.name for key in NAMED["policy.dt"].keys} < {key.name for key in bdt.keys}
    tt = NAMED["policy.tt"]  # has a context of its own
    assert tt.like == "policy"
    assert "policy.context_length" in {key.name for key in tt.own}
    assert "policy.tt.planner" in tt.parts
    assert NAMED["policy.tt.planner"].place == "policy.planner"
    assert NAMED["conditioning.feature"].like == ""  # all keys of its base have other defaults
    assert NAMED["policy.backbone"].others == ("policy.summary",)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        *[(int, "whole number"), (float | None, "number or null"), (bool, "true or false")],
        *[(bool | None, "true, false or null"), (Literal["a", "b", "c"], "a, b or c")],
        *[(tuple[int, int, int], "list of 3 whole numbers"), (tuple[str, ...], "list of texts")],
        (tuple[float | str, ...] | None, "list of numbers or texts, or null"),
        *[(dict[str, int], "mapping"), (list[float], "list of numbers"), (complex, "complex")],
    ],
)
def test_types_in_words(hint: Any, text: str) -> None:
    assert kind_text(hint) == text


@pytest.mark.parametrize(
    ("name", "means"),
    [
        *[("policy", "policy"), ("policy.tt", "policy.tt"), ("tt", "policy.tt")],
        *[("train.optimizer.lamb", "train.optimizer.lamb"), ("evaluation", "evaluation")],
        *[("lamb", "train.optimizer.lamb"), ("policy.planner", "policy.tt.planner")],
        *[("learning_rate", "train.learning_rate"), ("seed", "seed")],
        ("policy.tt.planner.beams", "policy.planner.beams"),
        *[("tt.planner.beams", "policy.planner.beams"), ("planner.beams", "policy.planner.beams")],
        *[("policy.summary", "policy.summary.name"), ("policy.backbone", "policy.backbone")],
        ("policy.summary.layers", "policy.backbone.layers"),
        ("policy.auxiliary.inverse_dynamics.width", "policy.auxiliary.LABEL.width"),
    ],
)
def test_a_name_means_a_component_or_a_key(name: str, means: str) -> None:
    (found,) = find(FOUND, name)
    assert means == (found.address if isinstance(found, Component) else found.name)


def test_a_name_may_mean_several_or_nothing() -> None:
    assert {key.name for key in find(FOUND, "width")} > {"policy.width", "policy.backbone.width"}
    assert find(FOUND, "nothing") == []
    assert find(FOUND, "") == []


@dataclass
class Motor(draccus.ChoiceRegistry):
    """A motor."""

    power: int = 1
    """Power."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "petrol"


@Motor.register_subclass("petrol")
@dataclass
class Petrol(Motor):
    """Burns petrol."""


@dataclass
class Car:
    """A car."""

    motor: Motor = field(default_factory=Petrol)
    """What moves it."""
    doors: int = 3


def test_an_entry_registered_later_is_described() -> None:
    assert [one.address for one in components(Car)] == ["", "motor", "motor.petrol"]

    @Motor.register_subclass("electric")
    @dataclass
    class Electric(Motor):
        power: int = 2
        """Power."""
        battery: int = 50
        """Kilowatt-hours."""

    try:
        found = {one.address: one for one in components(Car)}
        assert found["motor"].entries == ("motor.petrol", "motor.electric")
        assert [key.name for key in found["motor.electric"].own] == ["motor.power", "motor.battery"]
        assert found["motor.electric"].meaning == ""  # not the text that `dataclass` makes
        assert found["motor.petrol"].like == "motor"
    finally:
        del Motor.get_known_choices()["electric"]


def test_a_key_without_a_meaning_is_described_by_its_type() -> None:
    assert keys_of(components(Car))["doors"].meaning == ""
    assert keys_of(components(Car))["doors"].kind == "whole number"


def test_a_class_whose_source_is_nowhere_is_described_by_types() -> None:
    space: dict[str, Any] = {"dataclass": dataclasses.dataclass}
    exec("@dataclass\nclass Made:\n    steps: int = 5\n    'Steps.'\n", space)
    (made,) = components(space["Made"])
    assert [(key.name, key.default, key.meaning) for key in made.keys] == [("steps", "5", "")]
