"""Conditioning on a fixed schedule: the labels of a target trajectory, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from decision_seq.sequences.conditioning.base import Conditioning
from decision_seq.types import Transition


@dataclass(frozen=True)
class Schedule(Conditioning):
    """Conditions on the label of step t of a target trajectory at step t, independent of the
    rollout (frt03/generalized_dt eval_cdt.py).

    After the target's end its last label is repeated. Several targets are selected by number, in
    place of a target return.
    """

    fields: ClassVar[tuple[str, ...]] = ("scheduled",)
    labels: Sequence[np.ndarray]
    """Labels of every target, [T, C]; T may differ."""

    @property
    def size(self) -> int:
        return self.labels[0].shape[1]

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return self._at(targets, np.zeros(len(targets), np.int64))

    def advance(
        self,
        conditions: np.ndarray,
        targets: np.ndarray,
        transition: Transition,
        timesteps: np.ndarray,
    ) -> np.ndarray:
        return self._at(targets, timesteps + 1)

    def _at(self, targets: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """The labels of N targets at N timesteps, [N, C] float32."""
        several = len(self.labels) > 1
        chosen = [self.labels[int(target) if several else 0] for target in targets]
        steps = zip(chosen, timesteps, strict=True)
        return np.stack([labels[min(t, len(labels) - 1)] for labels, t in steps])
