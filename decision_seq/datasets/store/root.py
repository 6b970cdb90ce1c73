"""The folder that holds the stores."""

from __future__ import annotations

import os
from pathlib import Path

from decision_seq.types import UserError


def store_root() -> Path:
    """The folder of all stores: `$DECISION_SEQ_DATA`, by default `~/.cache/decision_seq`."""
    return configured_folder("DECISION_SEQ_DATA", Path(".cache") / "decision_seq")


def configured_folder(variable: str, default: Path) -> Path:
    """The folder that an environment variable names, by default `default` in the user's home.

    UserError where there is no home folder, as for a number without a name in a container.
    """
    configured = os.environ.get(variable)
    try:
        return Path(configured).expanduser() if configured else Path.home() / default
    except RuntimeError as error:
        raise UserError(
            f"this user has no home folder; name a folder for the data by {variable}, or set HOME"
        ) from error
