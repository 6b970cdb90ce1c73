"""Records of what `evaluate` found: a file for each evaluation after training, never replaced.

RUN/evaluations/TIME-CHECKPOINT-PROTOCOL.json       of a run's checkpoint
POLICY-evaluations/TIME-CHECKPOINT-PROTOCOL.json    beside a policy outside of a run; in the current
                                                    folder for a policy of the package
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq import at_hand
from decision_seq.evaluation import Opened
from decision_seq.formatting import json_text
from decision_seq.machine import files
from decision_seq.report.later import FOLDER
from decision_seq.runs.provenance import Launched
from decision_seq.types import Reporter, UserError

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def folder_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint's records: in its run, or beside a policy outside of a run."""
    for path in (checkpoint, checkpoint.resolve()):  # the first is shorter to read
        if path.parent.name == "checkpoints" and re.fullmatch(r"step-\d+", path.name):
            return path.parent.parent / FOLDER
    if checkpoint.resolve().parent == at_hand.FOLDER:  # the package's folder is not the user's
        return Path(f"{checkpoint.name}-{FOLDER}")
    named = checkpoint if checkpoint.name not in ("", "..") else path
    return named.with_name(f"{named.name}-{FOLDER}")


@dataclass(frozen=True)
class Found:
    """The result of an evaluation, with the settings that determine it."""

    kind: str
    """`rollout`, `calibration` or `offline`."""
    checkpoint: Path
    """Path of the checkpoint."""
    step: int
    """Updates done."""
    protocol: dict[str, Any]
    """Settings that determine the result."""
    result: dict[str, Any]
    """The result itself, with the return of every episode."""

    @classmethod
    def by_rollouts(
        cls, kind: str, opened: Opened, result: dict[str, Any], targets: Sequence[float] = ()
    ) -> Found:
        """The result of rollouts; targets: where they are not those of the evaluation."""
        protocol = opened.protocol() | ({"targets": list(targets)} if targets else {})
        return cls(kind, opened.loaded.path, opened.loaded.step, protocol, result)


def keep(found: Found, launched: Launched, reporter: Reporter) -> Path | None:
    """Write a record of an evaluation -> its path; None, with a line, in a read-only folder.

    UserError where the file system fails.
    """
    facts = dict(launched.facts)
    time = facts.pop("started")
    record = {**vars(found), "checkpoint": str(found.checkpoint), "time": time, **facts}
    settings = json_text({"kind": found.kind, "protocol": found.protocol}, None)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    stamp = re.sub(r"[-:]|\+.*", "", time)  # 20260131T235959
    name = f"{stamp}Z-{found.checkpoint.resolve().name[:40]}-{digest}"
    folder = folder_of(found.checkpoint)
    try:
        path = files.add_text(folder, name, ".json", json_text(record) + "\n")
    except OSError as error:
        if error.errno in READ_ONLY:
            reporter.say(f"the result is not kept: cannot write in {folder}: {error.strerror}")
            return None
        raise UserError(
            f"the result is not kept: cannot write in {folder}: {error.strerror}; leave the record"
            " out by --no-record"
        ) from error
    reporter.say(f"kept: {path}")
    return path
