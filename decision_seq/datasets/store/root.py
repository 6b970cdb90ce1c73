"""The folder that holds the stores."""

from __future__ import annotations

import os
from pathlib import Path


def store_root() -> Path:
    """The folder of all stores: `$DECISION_SEQ_DATA`, by default `~/.cache/decision_seq`."""
    configured = os.environ.get("DECISION_SEQ_DATA")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "decision_seq"
