"""Protocol between the driver of the comparison and its workers; it only depends on torch.

A worker is run as `python WORKER EPISODES THREADS PIPE`: a file, a count, and an open descriptor
for its answers, since libraries print to the standard output. It first writes one line of JSON
about itself, then answers each line `PART UPDATES` of its input with `{"seconds": ..., "loss":
...}`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable

# Shared by all workers: the paper's sizes and optimiser, with Hopper's dimensions.
BATCH, CONTEXT, LENGTH, OBSERVATION, ACTION = 64, 20, 1000, 11, 3
LAYERS, HEADS, WIDTH, DROPOUT = 3, 1, 128, 0.1
LEARNING_RATE, WEIGHT_DECAY, CLIP, SCALE = 1e-4, 1e-4, 0.25, 1000.0
# `update`: repeats one batch; `step`: the peer's own data pipeline makes a new batch each time.
PARTS = ("update", "step")


def use_threads() -> None:
    """Set the number of threads given by the driver; 0: torch's default."""
    import torch

    if threads := int(sys.argv[2]):
        torch.set_num_threads(threads)


def serve(
    version: str,
    parameters: int,
    notes: str,
    parts: dict[str, Callable[[], float]],
) -> None:
    """Describe the worker, then answer the driver; a part makes one update and returns its loss."""
    import torch

    about = {
        "version": version,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "parameters": parameters,
        "parts": list(parts),
        "notes": notes,
    }
    with os.fdopen(int(sys.argv[3]), "w", buffering=1) as pipe:
        print(json.dumps(about), file=pipe)
        for line in sys.stdin:
            part, updates = line.split()
            started = time.perf_counter()
            for _ in range(int(updates)):
                loss = parts[part]()
            seconds = time.perf_counter() - started
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss of its {part} is {loss}")
            print(json.dumps({"seconds": seconds, "loss": loss}), file=pipe)
