"""Registration of components by users and plugins, under one function.

| kind | item |
|---|---|
| `policy`, `backbone`, `auxiliary`, `conditioning`, `optimizer`, `encoder`, `positions`, `critic` |
a frozen dataclass that inherits the kind's configuration class |
| `reader` | a function (path, output, reporter) -> EpisodeStore for files with a suffix, `.csv` |
| `source` | a function (name, request) -> EpisodeStore for the datasets `NAME/...` |
| `environment` | a `gymnasium.Env` class, or a function that makes one, for an id |
| `verb` | a function that adds a verb to the command line, see `commands` |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from decision_seq.formatting import error_text
from decision_seq.types import UserError

Item = TypeVar("Item")
VERBS: dict[str, Callable[[Any], None]] = {}  # of plugins


def _configurations() -> dict[str, Any]:
    from decision_seq.models.auxiliary.base import AuxiliaryConfig
    from decision_seq.models.backbones import BackboneConfig
    from decision_seq.models.critics import CriticConfig
    from decision_seq.models.encoders import EncoderConfig
    from decision_seq.models.positions import PositionsConfig
    from decision_seq.policies import PolicyConfig
    from decision_seq.sequences.conditioning import Conditioning
    from decision_seq.training.optimizers import OptimizerConfig

    return {
        "policy": PolicyConfig,
        "backbone": BackboneConfig,
        "auxiliary": AuxiliaryConfig,
        "conditioning": Conditioning,
        "optimizer": OptimizerConfig,
        "encoder": EncoderConfig,
        "positions": PositionsConfig,
        "critic": CriticConfig,
    }


def _tables() -> dict[str, dict[str, Any]]:
    from decision_seq import datasets

    return {"reader": datasets.FILE_READERS, "source": datasets.SOURCES, "verb": VERBS}


# Kinds whose items are configuration classes; the classes are imported only for one of these.
CONFIGURED = (
    *("policy", "backbone", "auxiliary", "conditioning", "optimizer", "encoder", "positions"),
    "critic",
)
KINDS = (*CONFIGURED, "reader", "source", "verb", "environment")


def register(kind: str, name: str) -> Callable[[Item], Item]:
    """A decorator that registers an item under a name; see the module for kinds and items.

    UserError for an unknown kind, an unfit item, or a name that is taken. A class that is defined
    again in the same module, as a notebook's cell does, replaces the former one.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"register({kind!r}, {name!r}): the name must be text")
    if kind not in KINDS:
        raise UserError(f"register({kind!r}): the kinds are {', '.join(KINDS)}")

    def add(item: Item) -> Item:
        if kind == "environment":
            _register_environment(name, item)
            return item
        base = _configurations()[kind] if kind in CONFIGURED else None
        if base is not None and not (isinstance(item, type) and issubclass(item, base)):
            raise UserError(f"register({kind!r}, {name!r}): give a class of {base.__name__}'s")
        if base is not None and _undecorated(item):
            raise UserError(
                f"register({kind!r}, {name!r}): write @dataclass(frozen=True) between register and"
                " the class, so that its fields become keys"
            )
        if base is None and not callable(item):
            raise UserError(f"register({kind!r}, {name!r}): give a function")
        if kind == "reader" and not name.startswith("."):
            raise UserError(f"register({kind!r}, {name!r}): a suffix begins with a dot, .{name}")
        table = _tables()[kind] if base is None else base.get_known_choices()
        former = table.get(name)
        if former is not None and _origin(former) != _origin(item):
            raise UserError(
                f"register({kind!r}, {name!r}): the name is taken by {'.'.join(_origin(former))}"
            )
        table[name] = item
        return item

    return add


def _register_environment(name: str, item: Any) -> None:
    """Register an environment with Gymnasium; UserError if it refuses the id."""
    import gymnasium

    try:
        gymnasium.register(name, entry_point=item)
    except gymnasium.error.Error as error:
        raise UserError(f"register('environment', {name!r}): {error_text(error)}") from error


def _undecorated(item: Any) -> bool:
    """Whether a class has annotated fields of its own and is no dataclass."""
    hints = inspect.get_annotations(item).values()
    own = any("ClassVar" not in str(hint) for hint in hints)
    return own and "__dataclass_fields__" not in vars(item)


def _origin(item: Any) -> tuple[str, str]:
    """The module and the name of a class or function."""
    return item.__module__, item.__qualname__


def registered() -> dict[str, dict[str, Any]]:
    """All items by kind and name, but for environments, which are Gymnasium's."""
    found = {kind: dict(base.get_known_choices()) for kind, base in _configurations().items()}
    return found | {kind: dict(table) for kind, table in _tables().items()}
