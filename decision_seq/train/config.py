"""What the optimiser and the loop are told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from decision_seq.config import require

# Learning-rate multipliers after the warm-up, by the fraction of the remaining steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}
# What the weights are kept in, and what the matrix products are computed in.
PRECISIONS = {
    "fp32": (torch.float32, None),
    "fp64": (torch.float64, None),
    "bf16": (torch.float32, torch.bfloat16),
    "fp16": (torch.float32, torch.float16),
}
DECAYS = ("all", "weights")
PARALLEL = ("ddp", "fsdp")
TRACKERS = ("tensorboard", "wandb", "trackio")
KEEP_BEST = ("return",)


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser and the loop. Defaults: kzl/decision-transformer gym/experiment.py.

    batch_size: windows in a global batch, over all processes and micro-batches; accumulation:
    micro-batches into which every process cuts its share, for memory's sake; warmup_steps: the
    learning rate rises linearly; schedule: what it does afterwards; clip: largest global gradient
    norm, null for any. None of batch_size's slicing changes the gradient. floor: what part of the
    learning rate the schedule never falls below; fall_steps: updates after which it has fallen, by
    default all. Beyond them a cosine rises again, as it does in the Trajectory Transformer's code,
    and a line stays at the floor. betas: of AdamW; decay: on `all` parameters, as the original's
    Gym code has it, or the weights of linear layers and convolutions alone (`weights`), as its
    Atari code.

    precision: fp32, fp64 (to compare runs), bf16 or fp16 (matrix products in half precision by
    autocast, weights in fp32). parallel: `ddp` keeps the whole model in every process, `fsdp`
    shards it (PyTorch's FSDP2). checkpoint_activations: recompute every block in the backward pass
    rather than keep its insides. compile: run the policy through torch.compile. data_on_device:
    keep the data's columns on the device and gather windows there; cuda_graph: replay the whole
    update as one CUDA graph.

    checkpoint_every: updates between checkpoints; the newest keep_checkpoints stay, and for good
    those of every keep_every updates (0: none) and the best by keep_best: `return` is the mean
    return at the first target in the evaluations during training (see evaluation.every).

    trackers: of tensorboard, wandb, trackio; metrics.jsonl is always written. peak_tflops: what the
    device could compute at best in this precision, for the model FLOP utilisation where it is not
    one that `train.throughput` knows.
    """

    steps: int = 100_000
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 10_000
    schedule: str = "constant"
    floor: float = 0.0
    fall_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    decay: str = "all"
    clip: float | None = 0.25
    precision: str = "fp32"
    parallel: str = "ddp"
    checkpoint_activations: bool = False
    compile: bool = False
    data_on_device: bool = False
    cuda_graph: bool = False
    log_every: int = 10
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: str | None = None
    trackers: tuple[str, ...] = ("tensorboard",)
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every")
        for key in (*counts, "keep_checkpoints", "fall_steps"):
            value = getattr(self, key)
            if value is None:
                continue
            require(value >= 1, f"config: train.{key} {value} must be at least 1")
            require(value < 2**31, f"config: train.{key} {value} is too large")
        for key in ("learning_rate", "clip", "peak_tflops"):
            value = getattr(self, key)
            positive = value is None or (math.isfinite(value) and value > 0)
            require(positive, f"config: train.{key} {value} must be above 0")
        for key in ("weight_decay", "warmup_steps", "keep_every"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"config: train.{key} {value} must not be negative")
        require(0 <= self.floor <= 1, f"config: train.floor {self.floor} must be in [0, 1]")
        for beta in self.betas:
            require(0 <= beta < 1, f"config: train.betas {beta} must be at least 0 and below 1")
        _choose("decay", self.decay, DECAYS)
        _choose("schedule", self.schedule, tuple(SCHEDULES))
        _choose("precision", self.precision, tuple(PRECISIONS))
        _choose("parallel", self.parallel, PARALLEL)
        for tracker in self.trackers:
            _choose("trackers", tracker, TRACKERS)
        if self.keep_best is not None:
            _choose("keep_best", self.keep_best, KEEP_BEST)
        require(
            not (self.cuda_graph and self._not_plain()),
            "config: train.cuda_graph replays one plain update; leave out train.accumulation,"
            " compile, checkpoint_activations and fp16, or the graph",
        )
        require(
            not (self.compile and self.parallel == "fsdp"),
            "config: train.compile is not applied to what fsdp shards; leave out one of them",
        )
        require(
            self.keep_every % self.checkpoint_every == 0,
            f"config: train.keep_every {self.keep_every} must be a multiple of"
            f" train.checkpoint_every {self.checkpoint_every}",
        )
        require(
            (self.parallel, self.precision) != ("fsdp", "fp16"),
            "config: train.precision fp16 needs whole gradients; fsdp takes bf16",
        )

    def _not_plain(self) -> bool:
        """Whether an update is more than one forward and one backward pass, looked at by nobody.

        Recomputing activations reads the generator's state, fp16 the gradients.
        """
        recomputed = self.compile or self.checkpoint_activations
        return self.accumulation > 1 or recomputed or self.precision == "fp16"

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        warm = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        left = max((self.fall_steps or self.steps) - self.warmup_steps, 1)
        done = max(step - self.warmup_steps, 0) / left
        return self.learning_rate * warm * max(SCHEDULES[self.schedule](done), self.floor)


def _choose(key: str, value: str, known: tuple[str, ...]) -> None:
    listed = ", ".join(known)
    require(value in known, f"config: train.{key} {value!r} is unknown; one of {listed}")
