"""Tests of the names of methods: labels of the recipes, and names that users give."""

from typing import Any

import pytest

from decision_seq import methods
from decision_seq.config import read_yaml
from decision_seq.policies import PolicyConfig
from decision_seq.recipes import recipes
from decision_seq.sequences.conditioning import Conditioning

RECIPES = {
    **dict.fromkeys(("bc/gym", "bc/paper"), "BC (MLP)"),
    **dict.fromkeys(("bc/transformer", "bc/key-to-door", "atari/bc"), "BC (transformer)"),
    **dict.fromkeys(("gdt/cdt", "gdt/cdt-small"), "CDT"),
    **dict.fromkeys(("gdt/dtx", "gdt/dtx-small"), "DT-X"),
    **dict.fromkeys(("gdt/bdt", "gdt/bdt-small"), "BDT"),
    **dict.fromkeys(("tt/gym", "tt/small"), "TT"),
    "return_predictor/key-to-door": "return predictor",
}


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_is_called_by_its_method(recipe: str) -> None:
    tree = {"method": recipe, **read_yaml(recipes()[recipe])}
    assert methods.run_name(tree) == RECIPES.get(recipe, "DT")


def test_every_label_is_of_a_policy_and_a_conditioning_that_exist() -> None:
    policies, conditionings = PolicyConfig.get_known_choices(), Conditioning.get_known_choices()
    for policy, conditioning in methods.LABELS:
        assert policy in policies
        assert conditioning == "*" or conditioning in conditionings


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({"method": "k5"}, "k5"),
        ({"method": "DT"}, "DT"),  # it only repeats the policy
        ({"method": "bc", "conditioning": {"name": "none"}}, "BC (transformer)"),
        ({"method": "dt/gym", "conditioning": {"name": "none"}}, "BC (transformer)"),
        ({"method": None, "policy": {"name": "of_a_plugin"}}, "of_a_plugin"),
        ({"method": ["a"], "policy": "text", "conditioning": 5}, "DT"),
        ({}, "DT"),
    ],
)
def test_the_name_is_the_users_or_the_label(tree: dict[str, Any], name: str) -> None:
    assert methods.run_name(tree) == name
