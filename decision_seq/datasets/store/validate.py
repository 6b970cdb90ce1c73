"""Checks on an episode before it is written to a store."""

from __future__ import annotations

from typing import Any

import numpy as np

from decision_seq.envs.action_space import MOST_CHOICES
from decision_seq.types import Episode, UserError


def checked(episode: Episode, name: str) -> Episode:
    """The episode in the store's dtypes; UserError if it is malformed."""
    steps = len(episode.rewards)
    observations, actions = np.asarray(episode.observations), np.asarray(episode.actions)
    rewards = np.asarray(episode.rewards)
    if steps == 0 or rewards.ndim != 1:
        raise UserError(f"{name}: rewards of shape {rewards.shape}; a list of numbers is needed")
    if len(observations) not in (steps, steps + 1) or len(actions) != steps:
        raise UserError(
            f"{name}: {len(observations)} observations, {len(actions)} actions and {steps} rewards"
            " do not belong together"
        )
    for label, array in (
        ("observations", observations),
        ("actions", actions),
        ("rewards", rewards),
    ):
        if array.dtype.kind not in "fiub":
            raise UserError(f"{name}: {label} are {array.dtype}, not numbers")
    if observations.ndim < 2 or 0 in observations.shape:
        raise UserError(f"{name}: observations of shape {observations.shape[1:]}; give vectors")
    discrete = actions.ndim == 1 and actions.dtype.kind in "iu"
    if not discrete and (actions.ndim != 2 or actions.shape[1] == 0):
        raise UserError(
            f"{name}: actions of shape {actions.shape[1:]} {actions.dtype}; vectors of numbers, or"
            " one whole number a step, are needed"
        )
    if discrete and max(abs(int(actions.min())), abs(int(actions.max()))) >= MOST_CHOICES:
        raise UserError(
            f"{name}: discrete actions run from {actions.min()} to {actions.max()}; choices are"
            f" numbers below {MOST_CHOICES:,}: count them from 0"
        )
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
        checked = Episode(
            _cast(observations, np.uint8 if observations.dtype == np.uint8 else np.float32),
            _cast(actions, np.int64 if discrete else np.float32),
            _cast(rewards, np.float64),
            bool(episode.terminated),
            bool(episode.truncated and not episode.terminated),
        )
    for label in ("observations", "actions", "rewards"):
        array = getattr(checked, label)
        if array.dtype.kind != "f":
            continue
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))
        if len(bad):
            raise UserError(f"{name}: {label} hold NaN or infinity at step {bad[0]}; mend the data")
    with np.errstate(over="ignore"):
        total = checked.rewards.sum()
    if not np.isfinite(total):
        raise UserError(f"{name}: the rewards sum to infinity; mend the data")
    return checked


def require_frames(episode: Episode, name: str) -> None:
    """Raise UserError unless the observations of a checked episode are single frames, one a step.

    A final observation is refused too.
    """
    observations = episode.observations
    if observations.dtype != np.uint8 or observations.ndim != 3:
        raise UserError(
            f"{name}: observations of shape {observations.shape[1:]} {observations.dtype}; single"
            " frames [height, width] of bytes are needed"
        )
    if episode.has_final_observation:
        raise UserError(
            f"{name}: frames are stored without the one after the last step; leave it out"
        )


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.astype(dtype, copy=False)
