"""Rules on an environment's id: an id from data can do less than one that the user named.

Datasets, stores and checkpoints come from strangers. An id in them selects an environment that is
registered already, and its keyword arguments are plain values which that environment declares. No
module is imported for it. `trust` lifts these rules for an id that the user gave.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from decision_seq.modules import described, import_named
from decision_seq.types import UserError

NAME_IT = (
    "name the environment yourself if you trust it (--env, --evaluation.env_id; in Python"
    " envs.trust)"
)
MOST_NUMBER = 10_000  # of a keyword argument: 1e9 for a frame_skip would never return
MOST_FLOAT = 1e6
MOST_STEPS = 1_000_000  # of max_episode_steps
MOST_ENTRIES, MOST_DEPTH, MOST_TEXT = 4096, 4, 64

_trusted: set[str] = set()  # ids that the user named in this process


def trust(env_id: str, load: bool = True) -> None:
    """Accept an id that the user gave, and import the module of `module:Env-v0`.

    The module may lie in the current folder, as for `python -m`. UserError if it cannot be
    imported. load: False leaves the import to the first environment that is made.
    """
    if not env_id:
        return
    if not isinstance(env_id, str):
        raise UserError(
            f"the environment is of type {type(env_id).__name__}; give the id that it is registered"
            " with, such as Hopper-v4"
        )
    if load:
        import_module_of(env_id)
    _trusted.add(env_id)


def import_module_of(env_id: str) -> None:
    """Import the module of `module:Env-v0`, which the user named; UserError if it cannot be."""
    module = env_id.partition("?")[0].rpartition(":")[0]
    if module:
        import_named(module, f"environment {env_id!r}")


def is_trusted(env_id: str) -> bool:
    """Whether the user named this id in this process."""
    return env_id in _trusted


def require_plain(env_id: str, module: str, name: str, options: dict[str, Any]) -> None:
    """Raise UserError unless an id that the user did not name keeps the rules above.

    module, name, options: the parts of `module:name?options`.
    """
    if is_trusted(env_id):
        return
    if module:
        raise UserError(
            f"environment {env_id!r} is of the module {module}, which is imported only for an"
            " environment that you name yourself (--env, --evaluation.env_id; in Python"
            " envs.trust), never for one named by data"
        )
    if not options:
        return
    taken = _keywords(name)
    for key, value in options.items():
        if taken is not None and key not in taken:
            raise UserError(
                f"environment {env_id!r}: {name} takes no {key!r}, only"
                f" {', '.join(sorted(taken))}; {NAME_IT}"
            )
        fault = _fault(key, value)
        if fault:
            raise UserError(f"environment {env_id!r}: {key} {fault}; {NAME_IT}")


def _keywords(name: str) -> set[str] | None:
    """The keyword arguments that a registered environment declares; None if it is unknown.

    Those that it hands on by `**kwargs` are not declared.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    spec = gymnasium.registry.get(name)
    if spec is None or spec.entry_point is None:
        return None
    creator: Any = spec.entry_point
    try:
        if isinstance(creator, str):
            creator = load_env_creator(creator)
        parameters = inspect.signature(creator).parameters.values()
    except Exception as error:  # the import of a registered environment may fail with anything
        raise UserError(f"environment {name!r} cannot be made: {described(error)}") from error
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named | spec.kwargs.keys() | {"max_episode_steps"}


def _fault(key: str, value: Any) -> str | None:
    """What is wrong with the value of a keyword argument; None for a plain value in bounds."""
    if key == "max_episode_steps":
        whole = type(value) is int and 1 <= value <= MOST_STEPS
        return None if whole else f"must be a whole number from 1 to {MOST_STEPS:,}"
    left = [MOST_ENTRIES]

    def fault(item: Any, depth: int) -> str | None:
        left[0] -= 1
        if left[0] < 0 or depth > MOST_DEPTH:
            return f"holds more than {MOST_ENTRIES:,} values, or is nested too deeply"
        if item is None or isinstance(item, bool):
            return None
        if isinstance(item, int):
            return None if abs(item) <= MOST_NUMBER else f"is beyond {MOST_NUMBER:,}"
        if isinstance(item, float):
            sound = math.isfinite(item) and abs(item) <= MOST_FLOAT
            return None if sound else f"is beyond {MOST_FLOAT:,.0f}"
        if isinstance(item, str):
            path = (
                any(mark in item for mark in ("/", "\\", "..", "~", ":")) or len(item) > MOST_TEXT
            )
            return "names a file or a module, or is long" if path else None
        if isinstance(item, dict):
            parts = [*item.keys(), *item.values()]
        elif isinstance(item, list):
            parts = item
        else:
            return f"is a {type(item).__name__}"
        return next((found for part in parts if (found := fault(part, depth + 1))), None)

    return fault(value, 0)
