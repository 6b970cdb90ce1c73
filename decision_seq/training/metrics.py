"""Logging of a run's metrics, to metrics.jsonl and to the trackers named in the config."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decision_seq.checkpoint import way_on
from decision_seq.config import require, save_text
from decision_seq.formatting import json_text
from decision_seq.reading import fault_of, parse_json, read_lines
from decision_seq.training.trackers import start_tracker, tag
from decision_seq.types import UserError


def check_trackers(names: tuple[str, ...]) -> None:
    """UserError for a tracker whose package is not installed; Accelerate would skip it silently."""
    for name in names:
        require(
            importlib.util.find_spec(name) is not None,
            f"config: train.trackers {name} is not installed: pip install {name}",
        )


class Clock:
    """The time that a run has trained, evaluations included, over all of its launches.

    before: seconds of earlier launches, up to the checkpoint that the run resumed from.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self.started = time.monotonic()

    def start(self) -> None:
        """Begin to count this launch."""
        self.started = time.monotonic()

    def seconds(self) -> float:
        return round(self.before + time.monotonic() - self.started, 3)

    def stamp(self) -> dict[str, Any]:
        """What every record says of time: the seconds trained, and the time of day (UTC)."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"seconds": self.seconds(), "time": now}


class Metrics:
    """Writer of one record per logged update; a context manager that closes the file and trackers.

    step: number of updates already done. Later records, which a killed run wrote after its
    checkpoint, are removed. config: the tree of the run's config.yaml, for the trackers.
    """

    def __init__(
        self,
        output: Path,
        step: int,
        trackers: tuple[str, ...],
        config: dict[str, Any],
        require_there: Callable[[], None] = lambda: None,
    ) -> None:
        path = output / "metrics.jsonl"
        self.output, self.require_there = output, require_there
        trim(path, step)
        with self._writing(str(path)):  # closed by `__exit__`
            self.file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self.trackers: list[Any] = []
        for name in trackers:
            with self._writing(name):
                self.trackers.append(start_tracker(name, output, step, config))

    def write(self, record: dict[str, Any]) -> None:
        """Write a record, which must have the key `step`. UserError when the file system fails."""
        step = int(record["step"] or 0)
        self.require_there()
        with self._writing(self.file.name):
            self.file.write(json_text(record, None) + "\n")
        self.track(step, {key: value for key, value in record.items() if key != "step"})

    def track(self, step: int, values: dict[str, Any]) -> None:
        """Log the numbers among the values to the trackers only."""
        numbers = {tag(key): v for key, v in values.items() if isinstance(v, int | float)}
        for tracker in self.trackers:
            with self._writing(tracker.name):
                tracker.log(numbers, step=step)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Context in which a failure of the file system is a UserError that names `what`."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {what}: {error.strerror or error};"
                f" {way_on(self.output / 'checkpoints')}"
            ) from error

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with contextlib.suppress(OSError):  # a failed write was reported by `write`
            self.file.close()
        for tracker in self.trackers:
            try:
                with self._writing(tracker.name):  # it writes what it has buffered
                    tracker.finish()
            except UserError:
                if kind is None:
                    raise


def trim(path: Path, step: int) -> None:
    """Truncate a .jsonl file after the records up to `step`; create it where it is absent."""
    retained = []
    if step and path.exists():
        for line in read_lines(path):
            if not line.endswith("\n") or _step(line) > step:
                break
            retained.append(line)
    save_text(path, "".join(retained))


def _step(line: str) -> float:
    """The update of a line; infinity for a damaged line."""
    try:
        record = parse_json(line)
    except ValueError:
        return math.inf
    return math.inf if fault_of(record, {"step": int}) else record["step"]
