"""Names of run folders that the user did not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decision_seq.config import to_tree
from decision_seq.policies import PolicyConfig


def default_output(config: Any, name: str | None = None) -> Path:
    """runs/DATASET-NAME-seedN, with a number appended if that folder exists.

    name: the name that the user gave; None for that of the policy.
    """
    return default_outputs(config, name)[-1]


def default_outputs(config: Any, given: str | None = None) -> list[Path]:
    """The default folders of the configuration that exist, and the next one, which does not."""
    data = Path(config.dataset).stem if "." in config.dataset else config.dataset.replace("/", "-")
    name = to_tree(config)["policy"]["name"]
    group = (config.method or name).split("/")[0]
    if group != name and group in PolicyConfig.get_known_choices():  # bc/transformer is a dt
        name = config.method.replace("/", "-")
    base = f"{data}-{given or name}-seed{config.seed}"
    paths = [Path("runs") / base]
    while paths[-1].exists():
        paths.append(Path("runs") / f"{base}-{len(paths) + 1}")
    return paths
