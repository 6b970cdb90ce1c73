"""The actions of a run: their kind, number and range, from the data and the environment."""

from __future__ import annotations

from typing import Any

import numpy as np

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import FACTS, ActionSpace, action_space
from decision_seq.policies.base import ActionScaling
from decision_seq.types import Reporter, UserError

# A space this much wider than the data (Box(-1e10, 1e10)) says nothing about their scale.
WIDEST = 100.0


def action_entries(
    store: EpisodeStore, env_id: str | None, scaling: ActionScaling, reporter: Reporter
) -> dict[str, Any]:
    """The entries of a `Spec` on actions; UserError for choices that the space does not have.

    env_id: the environment of the run, which is made where neither the data nor the published facts
    of the task say its action space.
    """
    column = store.columns["actions"]
    space, owner = _known_space(store, env_id, reporter)
    if column.dtype.kind == "i":
        least, most = (int(store.header["statistics"][key]) for key in ("action_min", "action_max"))
        known = space if space is not None and space.kind == "discrete" else None
        first = known.first_choice if known else min(least, 0)
        count = known.size if known else most - first + 1
        require(
            known is None or first <= least <= most < first + count,
            f"the data's actions run from {least} to {most}; {owner} has choices from {first} to"
            f" {first + count - 1}: name another environment by --evaluation.env_id",
        )
        return {"action_size": count, "action_kind": "discrete", "first_choice": first}
    size = column.shape[1]
    fits = space is not None and space.kind == "continuous" and space.size == size
    chosen = action_range(store, space if fits else None, scaling)
    if chosen is not None:
        low, high = (np.array(bound) for bound in chosen)
        by = f"the space of {owner}" if scaling == "space" and fits else "the data's range"
        reporter.say(
            f"data: actions from {_listed(low)} to {_listed(high)} are scaled to [-1, 1] for the"
            f" policy, by {by} (--policy.action_scale)"
        )
    _report_outside(store, chosen, reporter)
    return {"action_size": size, "action_kind": "continuous", "action_range": chosen}


def action_range(
    store: EpisodeStore, space: ActionSpace | None, scaling: ActionScaling
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The range of continuous actions that becomes [-1, 1]; None where they stay as they are.

    By `space`, an entry has the bounds of its space. If these are not known, infinite, or more than
    100 times wider than the data, it has the data's range where the data leave [-1, 1], and stays
    as it is elsewhere.
    """
    least, most = _data_range(store)
    low, high = least, most
    if scaling == "none":
        return None
    if scaling == "space":
        inside = (least >= -1 - 1e-5) & (most <= 1 + 1e-5)
        low, high = np.where(inside, -1, least), np.where(inside, 1, most)
        if space is not None:
            assert space.bounds is not None
            with np.errstate(over="ignore", invalid="ignore"):
                width = space.bounds[1] - space.bounds[0]
            known = np.isfinite(width) & (width > 0)
            known &= (width <= WIDEST * (most - least)) | (width <= 2)
            low = np.where(known, space.bounds[0], low)
            high = np.where(known, space.bounds[1], high)
    constant = high - low <= 1e-6 * np.maximum(np.abs(high), 1)  # any width will do
    low, high = np.where(constant, low - 1, low), np.where(constant, high + 1, high)
    if (low == -1).all() and (high == 1).all():
        return None
    return tuple(low.tolist()), tuple(high.tolist())


def _data_range(store: EpisodeStore) -> tuple[np.ndarray, np.ndarray]:
    least, most = (store.header["statistics"][key] for key in ("action_min", "action_max"))
    return np.array(least, np.float64), np.array(most, np.float64)


def _known_space(
    store: EpisodeStore, env_id: str | None, reporter: Reporter
) -> tuple[ActionSpace | None, str]:
    """The action space of the data, and its owner; None where it is not known."""
    own = store.action_space
    if own is not None and (own.bounds is None or np.isfinite(own.bounds[0]).any()):
        return own, store.name
    facts = FACTS.get(store.header["family"] or "")
    size = store.columns["actions"].shape[1:]
    if facts is not None and size:
        low, high = (np.full(size, bound) for bound in facts.action_bounds)
        space = ActionSpace("continuous", size[0], 0, (low, high), size, np.float32)
        return space, facts.env_id or store.name
    if env_id is None:
        return None, ""
    try:
        return action_space(env_id), env_id
    except UserError as error:
        reporter.say(f"data: the action space is not known: {error}")
        return None, ""


def _report_outside(
    store: EpisodeStore, chosen: tuple[tuple[float, ...], tuple[float, ...]] | None, to: Reporter
) -> None:
    """Report actions that a policy cannot give because it ends in tanh."""
    least, most = _data_range(store)
    low, high = chosen or (-np.ones_like(least), np.ones_like(most))
    margin = 1e-5 * np.subtract(high, low)
    if (least < low - margin).any() or (most > high + margin).any():
        to.say(
            f"data: actions run from {least.min():.3g} to {most.max():.3g}; a policy whose actions"
            f" end in tanh cannot leave {_listed(low)} to {_listed(high)}"
        )


def _listed(bound: Any) -> str:
    """A bound as one number where all entries are equal, else as a list."""
    values = [f"{value:.4g}" for value in np.atleast_1d(bound)]
    if len(set(values)) == 1:
        return values[0]
    return f"[{', '.join(values[:6])}{', ...' if len(values) > 6 else ''}]"
