"""Settings of the optimizer and of the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from decision_seq.config import require
from decision_seq.formatting import number_text
from decision_seq.training.optimizers import AdamWConfig, OptimizerConfig
from decision_seq.training.trackers import TrackingConfig

# Learning-rate multipliers after the warm-up, by the fraction of the remaining steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}
# Types of the weights and of the matrix products.
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
    """Settings of the optimizer and the loop. Defaults: kzl/decision-transformer gym/experiment.py.

    The gradient does not depend on how a batch is split over processes and micro-batches.
    """

    steps: int = 100_000
    """Number of updates of the weights."""
    batch_size: int = 64
    """Windows in a global batch, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches into which every process splits its share of a batch, to save memory."""
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    """The optimizer, by name: adamw, adam, rmsprop or lamb."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    weight_decay: float = 1e-4
    """Weight decay, on the parameters that `decay` names."""
    warmup_steps: int = 10_000
    """Updates over which the learning rate rises linearly."""
    schedule: str = "constant"
    """Learning rate after the warm-up: constant, cosine or linear."""
    floor: float = 0.0
    """Fraction of the learning rate below which the schedule does not fall."""
    fall_steps: int | None = None
    """Updates, warm-up included, after which the schedule has reached its lowest value; null for
    `steps`. Afterwards `cosine` rises again, as in the Trajectory Transformer's code, and `linear`
    stays at the floor."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moving averages of AdamW, Adam and LAMB."""
    decay: str = "all"
    """Parameters that the weight decay acts on: `all`, as in the original's Gym code, or the
    `weights` of linear layers and convolutions, as in its Atari code."""
    clip: float | None = 0.25
    """Largest global norm of the gradient; null for no clipping."""
    ema: float | None = None
    """Decay of a moving average of the weights, which evaluations use and checkpoints hold; null
    for the weights themselves."""
    precision: str = "fp32"
    """fp32, fp64 (to compare runs), bf16 or fp16 (matrix products by autocast, weights in fp32)."""
    parallel: str = "ddp"
    """`ddp`: the whole model in every process; `fsdp`: sharded over processes (PyTorch's FSDP2)."""
    checkpoint_activations: bool = False
    """Recompute every block in the backward pass instead of storing its activations."""
    compile: bool = False
    """Run the policy through torch.compile."""
    data_on_device: bool = False
    """Store the data's columns on the device and gather windows there."""
    cuda_graph: bool = False
    """Replay the whole update as one CUDA graph."""
    log_every: int = 10
    """Updates between two records in metrics.jsonl."""
    checkpoint_every: int = 1_000
    """Updates between checkpoints."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of weights that are not trained, such as [backbone.*, embed_*]."""
    keep_checkpoints: int = 2
    """Number of the newest checkpoints that are retained."""
    keep_every: int = 0
    """Checkpoints at multiples of this many updates are never removed; 0 for none."""
    keep_best: str | None = None
    """Also retain the best checkpoint: `return` takes the mean return at the first target in the
    evaluations during training (see `evaluation.every`); null for no best checkpoint."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Trackers to log to: tensorboard, wandb or trackio, one name or a list. metrics.jsonl is
    always written."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """The place of the run in wandb and trackio."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of the device in this precision, for the model FLOP utilisation; null for the
    value that `training.throughput` has for the device, if any."""

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
        average = self.ema
        require(
            average is None or 0 < average < 1,
            f"config: train.ema {average} must be above 0 and below 1, as 0.999 is, or null",
        )
        name = OptimizerConfig.get_choice_name(type(self.optimizer))
        require(
            self.optimizer.graphs or not self.cuda_graph,
            f"config: train.optimizer.name {name} does not fit into a CUDA graph; take adamw or"
            " adam, or leave out train.cuda_graph",
        )
        require(
            self.optimizer.shards or self.parallel != "fsdp",
            f"config: train.optimizer.name {name} needs whole weights; leave out fsdp",
        )
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
            "config: train.compile does not work with fsdp; leave out one of them",
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
        """Whether an update is more than one forward and one backward pass without host reads.

        Recomputing activations reads the generator's state, and fp16 reads the gradients.
        """
        recomputed = self.compile or self.checkpoint_activations
        return self.accumulation > 1 or recomputed or self.precision == "fp16"

    def short_of_warmup(self) -> str | None:
        """What is wrong with a warm-up as long as the training; None where it ends before that."""
        if self.warmup_steps < self.steps:
            return None
        share = number_text(100 * self.steps / self.warmup_steps, 0)
        return (
            f"the learning rate still rises after {self.steps} updates (train.warmup_steps"
            f" {self.warmup_steps}), to {share} % of train.learning_rate at most"
        )

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        warm = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        left = max((self.fall_steps or self.steps) - self.warmup_steps, 1)
        done = max(step - self.warmup_steps, 0) / left
        return self.learning_rate * warm * max(SCHEDULES[self.schedule](done), self.floor)


def _choose(key: str, value: str, known: tuple[str, ...]) -> None:
    listed = ", ".join(known)
    require(value in known, f"config: train.{key} {value!r} is unknown; one of {listed}")
