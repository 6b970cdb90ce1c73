"""Offline sequence modelling for reinforcement learning.

Everything listed in `__all__` is the public Python interface. It is loaded on first use, so the
import itself takes milliseconds. See `decision_seq.api` for the functions and
`decision_seq.evaluation.agent` for `Agent`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decision_seq.api import (
        Run,
        evaluate,
        load_config,
        load_policy,
        open_dataset,
        train,
    )
    from decision_seq.datasets.store import EpisodeStore
    from decision_seq.datasets.writing import write_dataset
    from decision_seq.evaluation.agent import Agent
    from decision_seq.registries import register
    from decision_seq.training.signals import Interrupted
    from decision_seq.types import Episode, Scores, UserError

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "Episode",
    "EpisodeStore",
    "Interrupted",
    "Run",
    "Scores",
    "UserError",
    "__version__",
    "evaluate",
    "load_config",
    "load_policy",
    "open_dataset",
    "register",
    "train",
    "write_dataset",
]
# The module of each public name that is not in `api`.
_MODULES = {
    "Agent": "evaluation.agent",
    "Episode": "types",
    "EpisodeStore": "datasets.store",
    "Interrupted": "training.signals",
    "Scores": "types",
    "UserError": "types",
    "register": "registries",
    "write_dataset": "datasets.writing",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'decision_seq' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"decision_seq.{_MODULES.get(name, 'api')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
