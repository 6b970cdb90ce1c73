"""Registrations of environments with Gymnasium: where they come from, and for other processes."""

from __future__ import annotations

import pickle
from typing import Any

from decision_seq.envs.facts import parse_id


def _registered(env_id: str | None) -> Any:
    """Gymnasium's record of an id; None where it is not registered in this process."""
    import gymnasium

    if env_id is None:
        return None
    return gymnasium.registry.get(parse_id(env_id)[0].rpartition(":")[2])


def environment_module(env_id: str | None) -> str:
    """The module that defines a registered environment; empty if unknown."""
    spec = _registered(env_id)
    entry = None if spec is None else spec.entry_point
    defined = getattr(entry, "__module__", "")
    return entry.partition(":")[0] if isinstance(entry, str) else defined


def registration(env_id: str) -> bytes | None:
    """The registration of an id, for other processes; None where they cannot have it.

    That is the case of an environment that is defined in a script or a notebook.
    """
    spec = _registered(env_id)
    if spec is None:  # its module is imported by its id
        return b""
    if getattr(spec.entry_point, "__module__", "") == "__main__":
        return None
    try:
        return pickle.dumps(spec)
    except Exception:  # of a function within a function, or of keyword arguments
        return None


def register_again(pickled: bytes) -> None:
    """Register an environment in a process that was started by one where it is registered."""
    import gymnasium

    if pickled:
        spec = pickle.loads(pickled)  # of our own parent process
        gymnasium.registry.setdefault(spec.id, spec)
