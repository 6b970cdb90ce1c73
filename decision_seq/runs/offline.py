"""Held-out scores of a run's checkpoint: opens the data that its training held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.evaluation import compute_device
from decision_seq.evaluation.held_out import (
    MAX_STEPS,
    OfflineScores,
    held_out_scores,
)
from decision_seq.runs.resolve import config_of, open_data
from decision_seq.types import Reporter


def offline_checkpoint(
    path: Path,
    dataset: str | None = None,
    device: str | None = None,
    max_steps: int = MAX_STEPS,
    store: EpisodeStore | None = None,
    reporter: Reporter | None = None,
) -> OfflineScores:
    """Measure a checkpoint, or a run's newest, on the episodes held out of its training.

    dataset: current location of the data, by default the run's own name for them; store: the same
    data, already open. UserError when they are not the training data, or no episode was held out.
    """
    loaded = checkpoint.load(path, compute_device(device), reporter=reporter)
    require("train" in loaded.config, f"{path} was not trained here: no episode was held out")
    config = config_of(loaded.config)
    require(
        config.held_out > 0,
        f"{path} was trained on every episode; hold some out when you train, by --held_out 0.1",
    )
    if store is None:
        store = open_data(
            replace(config, dataset=dataset or config.dataset), reporter or Reporter()
        )
    facts = loaded.facts
    require(
        store.checksum == facts.checksum,
        f"{dataset or config.dataset} is not what {path} was trained on ({facts.source}); name"
        " the training data with --dataset",
    )
    return held_out_scores(loaded, config.held_out, store, max_steps)
