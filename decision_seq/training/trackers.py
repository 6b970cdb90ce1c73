"""Trackers of a run: TensorBoard, wandb and trackio, by Accelerate's classes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq.config import flat, save_text
from decision_seq.methods import run_name
from decision_seq.reading import read_text
from decision_seq.report.compare import NOT_OF_THE_METHOD

PROJECT = "decision-seq"
# Keys of a record that measure the machine; their tags are in a group of their own.
SPEED = (
    *("updates_per_second", "windows_per_second", "tokens_per_second", "model_tflops", "mfu"),
    *("data_wait", "memory_gib", "seconds"),
)
# Tags that TensorBoard shows beside the hyper-parameters.
SHOWN = ("train/loss", "evaluation/return_mean", "evaluation/normalized_score")


@dataclass(frozen=True)
class TrackingConfig:
    """The place of the run in wandb and trackio. What is null here may be given to wandb by its own
    variables, as WANDB_NAME is."""

    project: str | None = None
    """Project of wandb and trackio; null for wandb's WANDB_PROJECT, else decision-seq."""
    entity: str | None = None
    """User or team of wandb; null for WANDB_ENTITY, else the account's own."""
    group: str | None = None
    """Group of wandb's and trackio's runs; null for WANDB_RUN_GROUP, else the name of the method,
    so that the runs of several seeds are together."""
    tags: tuple[str, ...] = ()
    """Tags of wandb's run; none for WANDB_TAGS."""


def start_tracker(name: str, output: Path, step: int, config: dict[str, Any]) -> Any:
    """One of Accelerate's trackers, started; it continues the tracked run of this folder.

    step: number of updates already done; config: the tree of the run's config.yaml.
    """
    from accelerate import tracking

    known: dict[str, Callable[[], Any]] = {
        # purge_step hides records that a killed run wrote after its checkpoint
        "tensorboard": lambda: tracking.TensorBoardTracker(name, output, purge_step=step + 1),
        "trackio": lambda: tracking.TrackioTracker(**_trackio(output, config)),
        "wandb": lambda: tracking.WandBTracker(**_wandb(output, config)),
    }
    tracker = known[name]()
    tracker.start()
    if name == "tensorboard":  # by its tracker they would appear as a second run
        _hyper_parameters(tracker.writer, output, config)
    else:
        tracker.store_init_configuration(config)
    return tracker


def _trackio(output: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of trackio's tracker."""
    asked = _asked(config)
    return {
        "run_name": asked.get("project") or PROJECT,  # Accelerate's word for the project
        "name": _run_id(output),
        "group": asked.get("group") or run_name(config),
        "resume": "allow",
    }


def _wandb(output: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of wandb's tracker. An argument would replace wandb's variable: it is left out
    where the variable is set and the key is not."""
    asked = _asked(config)
    defaults = {
        "entity": ("WANDB_ENTITY", None),
        "group": ("WANDB_RUN_GROUP", run_name(config)),
        "tags": ("WANDB_TAGS", None),
        "name": ("WANDB_NAME", output.name),
    }
    given = {
        key: asked.get(key) or (None if os.environ.get(variable) else default)
        for key, (variable, default) in defaults.items()
    }
    return {
        # Accelerate passes the project on in any case.
        "run_name": asked.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT,
        **{key: value for key, value in given.items() if value is not None},
        "id": _run_id(output),
        "resume": "allow",
        "dir": str(output),
    }


def _asked(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("train", {}).get("tracking", {})


def _run_id(output: Path) -> str:
    """The run's id for the trackers, the same after a resume."""
    path = output / "run-id.txt"
    if not path.exists():
        save_text(path, f"{output.name}-{uuid.uuid4().hex[:8]}")
    return read_text(path).strip()


def _hyper_parameters(writer: Any, output: Path, config: dict[str, Any]) -> None:
    """Write the run's settings for TensorBoard's table of hyper-parameters."""
    from torch.utils.tensorboard.summary import hparams

    settings = {
        key: value if isinstance(value, bool | int | float) else str(value)
        for key, value in flat(config).items()
        if not key.startswith((*NOT_OF_THE_METHOD, "spec.", "data.", "train.steps"))
    }
    about = {"name": run_name(config), "dataset": config.get("dataset"), "seed": config.get("seed")}
    train = config.get("train", {})
    shown = {**about, "train.steps": train.get("steps"), **settings}
    given = {key: value for key, value in shown.items() if value is not None}
    for summary in hparams(given, dict.fromkeys(SHOWN, 0.0)):
        writer.file_writer.add_summary(summary)


def tag(key: str) -> str:
    """The tag of a record's value: its group (train, speed or evaluation), then its name."""
    if "/" in key and key.split("/")[0] == "evaluation":
        return key
    return f"{'speed' if key in SPEED else 'train'}/{key}"
