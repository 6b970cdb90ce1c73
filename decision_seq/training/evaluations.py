"""Evaluations during training, rolled out by all ranks and saved in evaluations.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from decision_seq.checkpoint import way_on
from decision_seq.config import plain
from decision_seq.evaluation import Evaluation
from decision_seq.formatting import json_text
from decision_seq.policies import Policy
from decision_seq.reading import Kinds, fault_of, parse_json, read_lines, unreadable
from decision_seq.training.launch import Ranks
from decision_seq.training.metrics import Clock, Metrics
from decision_seq.training.signals import Signals
from decision_seq.types import Reporter, TargetScore, UserError

RECORD: Kinds = {
    "step": int,
    "targets": list,
    "protocol": (dict, type(None)),
    "env_steps_per_second": (float, type(None)),
}


class Evaluations:
    """Evaluations of a run during training.

    Episodes are distributed over the ranks in waves. Ranks that have finished theirs poll for the
    others' results, so no collective waits while environments run.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        output: Path,
        ranks: Ranks,
        reporter: Reporter,
        require_there: Callable[[], None] = lambda: None,
    ) -> None:
        self.whole, self.ranks, self.reporter = evaluation, ranks, reporter
        self.path = output / "evaluations.jsonl"
        self.require_there = require_there

    def record(
        self,
        evaluation: Evaluation,
        step: int,
        policy: Callable[[], Policy],
        signals: Signals,
        clock: Clock,
        metrics: Metrics | None,
    ) -> dict[str, Any] | None:
        """Evaluate at update `step` -> its record; None when any rank received a signal.

        evaluation: the whole protocol or a part of it. A record that an interrupted run already
        wrote is reused. policy: makes the copy to roll out; metrics: the main process's, whose
        trackers receive the scores, None on other ranks.
        """
        protocol = json.loads(json.dumps(evaluation.protocol()))
        known = self.ranks.from_main(lambda: self._recorded(step, protocol))
        if known is not None:
            return known
        copy = policy()

        def roll() -> dict[str, Any]:
            return evaluation.rank_part(copy, self.ranks.rank, self.ranks.world, self.reporter)

        parts = self.ranks.together(lambda: signals.interruptible(roll))
        if None in parts:
            return None
        scores, rate = evaluation.scores(parts)
        record = {
            "step": step,
            **clock.stamp(),
            "protocol": protocol,
            "targets": [plain(score) for score in scores],
            "env_steps_per_second": rate,
        }
        self.ranks.from_main(lambda: self._append(record))
        if metrics is not None:
            metrics.track(step, dict(_values(scores)))
        return record

    def _append(self, record: dict[str, Any]) -> None:
        self.require_there()
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json_text(record, None) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror};"
                f" {way_on(self.path.parent / 'checkpoints')}"
            ) from error

    def _recorded(self, step: int, protocol: dict[str, Any]) -> dict[str, Any] | None:
        """A saved evaluation of the same step and protocol, made before an interruption."""
        for number, line in enumerate(read_lines(self.path), start=1):
            try:
                record = parse_json(line)
            except ValueError as error:
                raise unreadable(self.path, f"line {number} is damaged ({error})") from error
            fault = fault_of(record, RECORD)
            if fault:
                raise unreadable(self.path, f"line {number} is damaged: {fault}; remove the line")
            if record["step"] == step and record["protocol"] == protocol:
                return record
        return None


def _values(scores: Sequence[TargetScore]) -> Iterator[tuple[str, float | None]]:
    """Names and values for the trackers.

    The first target's names are those of a policy without a target, so that one chart shows both.
    """
    for number, score in enumerate(scores):
        suffix = f"/target_{score.target:g}" if number else ""
        yield f"evaluation/return_mean{suffix}", score.return_mean
        yield f"evaluation/normalized_score{suffix}", score.normalized_score
