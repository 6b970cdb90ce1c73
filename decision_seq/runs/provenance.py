"""Provenance of a run: the facts that are needed to repeat it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from decision_seq.config import save_text
from decision_seq.datasets.store import EpisodeStore
from decision_seq.formatting import json_text
from decision_seq.reading import Unreadable, read_record
from decision_seq.runs.initial import Source


@dataclass(frozen=True)
class Launched:
    """One launch of a run."""

    facts: dict[str, Any]
    """Command, time, commit, package versions and machine, as saved in provenance.json."""

    @classmethod
    def now(
        cls,
        command: Sequence[str],
        processes: int,
        device: torch.device,
        source: Source | None = None,
    ) -> Launched:
        """The current launch.

        command: the arguments after `decision-seq`; source: the checkpoint whose weights it begins
        with.
        """
        packages = ("decision-seq", "torch", "numpy", "accelerate", "gymnasium", "mujoco")
        on_cuda = device.type == "cuda"
        hashed, changed = commit()
        return cls(
            {
                "command": ["decision-seq", *command],
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": hashed,
                "uncommitted": changed,
                "packages": {name: version(name) for name in packages},
                "python": platform.python_version(),
                **({} if source is None else {"init_from": source.origin}),
                "machine": {
                    "platform": platform.platform(),
                    "cores": os.cpu_count(),
                    "processes": processes,
                    "threads": torch.get_num_threads(),
                    "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
                },
            }
        )

    def record(self, path: Path, config: dict[str, Any], store: EpisodeStore) -> None:
        """Write the first launch with its config and data, or append a launch that resumes it."""
        data = {key: value for key, value in store.header.items() if key != "columns"}
        tree = {**self.facts, "config": config, "data": data, "resumed": []}
        with contextlib.suppress(Unreadable):  # absent at the first launch
            former = read_record(path, {"resumed": list})
            tree = {**former, "resumed": [*former["resumed"], self.facts]}
        save_text(path, json_text(tree) + "\n")


def commit() -> tuple[str | None, bool]:
    """The checkout's commit, None where there is none, and whether it has uncommitted changes."""
    return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str | None:
    """Output of git in the checkout; None where the package does not run from a checkout."""
    folder = Path(__file__).parent
    if shutil.which("git") is None or not (folder.parent / ".git").exists():
        return None
    outcome = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return outcome.stdout.strip() or None
