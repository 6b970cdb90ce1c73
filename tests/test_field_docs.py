"""Every configuration key has a meaning that a program can read."""

from dataclasses import dataclass, fields

import pytest

from decision_seq.config import config_classes, field_docs
from decision_seq.runs.resolve import Config

CLASSES = config_classes(Config)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_has_a_docstring_of_its_own(cls: type) -> None:
    documented = field_docs(cls)
    without = [field.name for field in fields(cls) if field.name not in documented]
    assert without == []
    for name, text in documented.items():
        assert text.endswith((".", ".)")), f"{name}: {text}"


def test_all_registries_are_reached() -> None:
    names = {cls.__name__ for cls in CLASSES}
    assert {"TrainConfig", "LSTMConfig", "LambConfig", "IQLConfig", "ReturnToGo"} <= names
    assert {"InverseDynamicsConfig", "PlannerConfig", "ImageConfig", "WindowConfig"} <= names


def test_a_field_inherits_and_overrides_its_docstring() -> None:
    @dataclass
    class Base:
        first: int = 0
        """Of the base."""
        second: int = 0
        """Of the base, too."""

    @dataclass
    class Derived(Base):
        second: int = 1
        """Of the class."""
        third: int = 2

    assert field_docs(Derived) == {"first": "Of the base.", "second": "Of the class."}
