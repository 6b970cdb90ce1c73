"""Tests of the trackers: TensorBoard's groups and hyper-parameters, and what wandb is given."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState

from decision_seq import config as configs
from decision_seq.config import to_tree
from decision_seq.runs.resolve import Config
from decision_seq.training.metrics import Metrics
from decision_seq.training.trackers import start_tracker, tag


def tree(**train: Any) -> dict[str, Any]:
    return to_tree(configs.load(Config, {"method": "k5", "seed": 3, "train": train}))


def test_tensorboard_shows_groups_and_hyper_parameters_in_one_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    with Metrics(tmp_path, 0, ("tensorboard",), tree(clip=None)) as metrics:
        record = {"loss": 0.5, "loss/action": 0.5, "learning_rate": 1e-3, "gradient_norm": None}
        speed = {"updates_per_second": 9.0, "memory_gib": 0.5, "seconds": 2.0, "time": "2026"}
        metrics.write({"step": 7, **record, **speed})
        metrics.track(7, {"evaluation/return_mean": 5.0})
    (folder,) = {path.parent for path in tmp_path.rglob("events*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["scalars"] == [
        *("train/loss", "train/loss/action", "train/learning_rate"),
        *("speed/updates_per_second", "speed/memory_gib", "speed/seconds"),
        "evaluation/return_mean",
    ]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["name"].string_value == "k5"
    assert given["seed"].number_value == 3
    assert given["policy.backbone.layers"].number_value == 3
    assert given["train.clip"].string_value == "None"
    assert "evaluation.episodes" not in given


def test_every_value_has_one_tag() -> None:
    assert tag("loss/inverse") == "train/loss/inverse"
    assert tag("metric/accuracy") == "train/metric/accuracy"
    assert tag("evaluation/normalized_score") == "evaluation/normalized_score"
    assert tag("model_tflops") == "speed/model_tflops"


class Wandb(ModuleType):
    """A stand-in for wandb's module: it records what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.given: dict[str, Any] = {}
        self.config = SimpleNamespace(update=lambda values, **_: self.given.update(config=values))

    def init(self, **given: Any) -> Any:
        self.given.update(given)
        return SimpleNamespace()


@pytest.mark.parametrize("by", ["default", "keys", "variables", "both"])
def test_what_wandb_is_given(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Wandb()
    PartialState()  # as in a launch; the tracker's log asks for it
    monkeypatch.setitem(sys.modules, "wandb", module)
    variables = ("PROJECT", "ENTITY", "RUN_GROUP", "TAGS", "NAME")
    for name in variables:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
        if by in ("variables", "both"):
            monkeypatch.setenv(f"WANDB_{name}", f"of-{name}")
    keys = {"project": "mine", "entity": "us", "group": "sweep", "tags": ["a", "b"]}
    made = tree(tracking=keys) if by in ("keys", "both") else tree()
    output = tmp_path / "hopper-k5-seed3"
    start_tracker("wandb", output, 0, made)
    always = ("config", "id", "resume", "dir")
    given = {key: value for key, value in module.given.items() if key not in always}
    named = {"name": "hopper-k5-seed3"}
    assert (
        given
        == {
            "default": {"project": "decision-seq", "group": "k5", **named},
            "keys": {**keys, **named},
            "variables": {"project": "of-PROJECT"},  # wandb reads the others itself
            "both": keys,
        }[by]
    )
    assert module.given["config"] == made
    assert module.given["resume"] == "allow"
    again = module.given["id"]
    start_tracker("wandb", output, 9, made)
    assert module.given["id"] == again
