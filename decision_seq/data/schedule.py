"""Conditions that are known before a rollout begins: a target's own, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from decision_seq.data.conditioning import Conditioning
from decision_seq.types import Transition


@dataclass(frozen=True)
class Schedule(Conditioning):
    """At step t of a rollout, whatever became of it, the label of step t of a target trajectory.

    Behind its end the last one stays. Of several, one is asked for by number, as a return is.
    (frt03/generalized_dt eval_cdt.py.)

    labels: of every target [T, C], T of its own.
    """

    fields: ClassVar[tuple[str, ...]] = ("scheduled",)
    labels: Sequence[np.ndarray]

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
        """[N, C] float32."""
        several = len(self.labels) > 1
        chosen = [self.labels[int(target) if several else 0] for target in targets]
        steps = zip(chosen, timesteps, strict=True)
        return np.stack([labels[min(t, len(labels) - 1)] for labels, t in steps])
