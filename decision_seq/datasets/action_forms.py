"""Forms in which files keep actions: numbers, choices, and rows that mean a choice.

| in the file | in the store |
|---|---|
| [N] integers or booleans | [N] choices |
| [N, 1] integers or booleans | [N] choices |
| [N, A] rows with a single 1 among zeros, everywhere | [N] choices, the places of the 1 |
| [N] floats | [N, 1] numbers |
| [N, A] integers or booleans, A > 1 | [N, A] numbers |
| [N, A] floats | [N, A] numbers |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

import numpy as np

from decision_seq.types import UserError


class Form(Enum):
    """The form of a file's actions, see the module."""

    NUMBERS = "[N, A] numbers"
    NUMBER = "[N] numbers"
    CHOICES = "[N] choices"
    COLUMN = "[N, 1] choices"
    ONE_HOT = "[N, A] rows with a single 1"
    INTEGERS = "[N, A] integers"

    @property
    def note(self) -> str | None:
        """A reader's note; None where it says nothing new."""
        return NOTES.get(self)

    def apply(self, actions: np.ndarray) -> np.ndarray:
        """A block of actions as the store keeps them.

        UserError where a block does not have the form, as files of one folder may differ.
        """
        one = self in (Form.CHOICES, Form.COLUMN, Form.NUMBER)
        if one and actions.size != len(actions):
            raise UserError(
                f"actions of shape {actions.shape[1:]} after one number a step; one form is needed"
            )
        if self in (Form.CHOICES, Form.COLUMN):
            return _choices(actions.reshape(len(actions)))
        if self is Form.NUMBER:
            return actions.reshape(len(actions), 1)
        if self is Form.ONE_HOT:
            return actions.argmax(1)
        return actions


NOTES = {
    Form.COLUMN: "actions are one integer a step, read as choices",
    Form.ONE_HOT: "actions are rows with a single 1 among zeros, read as choices",
    Form.INTEGERS: "actions are rows of integers, read as numbers",
}


def _choices(actions: np.ndarray) -> np.ndarray:
    """Choices [N] as int64; UserError for other numbers."""
    if actions.dtype.kind not in "iub":
        raise UserError(f"actions are {actions.dtype} after whole numbers; one type is needed")
    if actions.dtype == np.uint64 and actions.size and actions.max() >= 2**63:
        raise UserError(f"discrete actions reach {actions.max()}; count them from 0")
    return actions.astype(np.int64, copy=False)


def form_of(first: np.ndarray, blocks: Callable[[], Iterable[np.ndarray]]) -> Form:
    """The form of actions.

    first: some of them; blocks: makes an iterator over all, called only if `first` is one-hot.
    """
    whole = first.dtype.kind in "iub"
    if first.ndim == 1:
        return Form.CHOICES if whole else Form.NUMBER
    if first.ndim != 2:
        return Form.NUMBERS
    if first.shape[1] == 1:
        return Form.COLUMN if whole else Form.NUMBERS
    if len(first) and one_hot(first) and all(one_hot(block) for block in blocks()):
        return Form.ONE_HOT
    return Form.INTEGERS if whole else Form.NUMBERS


def one_hot(actions: np.ndarray) -> bool:
    """Whether every row of [N, A] is zeros and a single 1."""
    ones = actions == 1
    return bool((ones.sum(1) == 1).all() and ((actions == 0) | ones).all())
