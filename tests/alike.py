"""Comparison of two finished runs that must be the same to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decision_seq import checkpoint

# Values that measure the machine, or name the run's folder.
MEASURED = {"env_steps_per_second", "checkpoint", "updates_per_second", "windows_per_second"}
MEASURED |= {"tokens_per_second", "model_tflops", "data_wait", "memory_gib", "seconds", "time"}


def require_same(run: Path, whole: Path) -> None:
    """Fail unless `run` ended as `whole` did, and left no temporary file."""
    assert _names(run) == _names(whole)
    for path in sorted((whole / "checkpoints").rglob("*")):  # weights, moments, state, best.json
        name = path.relative_to(whole)
        if path.name == Path(checkpoint.STATE).name:  # it holds the seconds trained
            found, expected = (json.loads((at / name).read_text()) for at in (run, whole))
            assert found.pop("seconds") > 0
            assert expected.pop("seconds") > 0
            assert found == expected, name
        elif path.is_file():
            assert (run / name).read_bytes() == path.read_bytes(), name
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    for name in ("metrics.jsonl", "evaluations.jsonl", "scores.json", "offline.json"):
        if (whole / name).exists():
            assert _measured_apart(run / name) == _measured_apart(whole / name), name
    assert json.loads((run / "provenance.json").read_text())["data"]
    if (whole / "tensorboard").exists():
        assert _scalars(run / "tensorboard") == _scalars(whole / "tensorboard")


def require_resumable(run: Path) -> None:
    """Fail if an interruption left a damaged checkpoint."""
    for path in checkpoint.checkpoints(run / "checkpoints"):
        assert checkpoint.fault(path) is None, path


def _names(run: Path) -> set[str]:
    found = {str(path.relative_to(run)) for path in run.rglob("*")}
    return {name for name in found if not name.startswith("tensorboard/")}


def _measured_apart(path: Path) -> list[Any]:
    """The file's JSON values without those that differ from launch to launch."""
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    assert text.endswith("\n"), path
    return [_without(json.loads(line)) for line in lines]


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(held) for key, held in value.items() if key not in MEASURED}
    return [_without(held) for held in value] if isinstance(value, list) else value


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars that TensorBoard shows, by name and update."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
        if not name.startswith("speed/")
    }
