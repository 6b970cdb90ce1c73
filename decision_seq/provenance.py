"""What made a run, so that it can be made again."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from decision_seq.data.store import EpisodeStore


def provenance(
    config: dict[str, Any], store: EpisodeStore, command: Sequence[str]
) -> dict[str, Any]:
    """What makes a run: command, data, code, packages, machine."""
    packages = ("decision-seq", "torch", "numpy", "accelerate", "gymnasium", "mujoco")
    return {
        "command": ["decision-seq", *command],
        "config": config,
        "data": {key: value for key, value in store.header.items() if key != "columns"},
        "commit": _commit(),
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The checkout's commit, None where the package does not run from one."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    if shutil.which("git") is None or not (folder.parent / ".git").exists():
        return None
    outcome = subprocess.run(git, capture_output=True, text=True, check=False)
    return outcome.stdout.strip() or None
