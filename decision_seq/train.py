"""Training: data -> windows -> loss -> update, the same run whatever interrupts it.

Everything random in a step is a function of (seed, step, rank): the windows by the sampler, the
dropout by seeding torch's generator at the start of the step. So a run resumed from a checkpoint
repeats the uninterrupted one to the bit, and no generator state has to be saved.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.data.sampler import WindowGatherer, WindowIndex, rank_slice, window_ids
from decision_seq.metrics import Metrics
from decision_seq.policies import Policy
from decision_seq.types import Reporter, UserError

# Learning-rate multipliers after the warm-up, by the fraction of the remaining steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}
PRECISIONS = {"fp32": "no", "bf16": "bf16"}


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser and the loop. Defaults: kzl/decision-transformer gym/experiment.py.

    batch_size: windows in a global batch, over all processes; warmup_steps: the learning rate
    rises linearly; schedule: what it does afterwards; clip: largest global gradient norm.
    """

    steps: int = 100_000
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 10_000
    schedule: str = "constant"
    clip: float = 0.25
    precision: str = "fp32"
    log_every: int = 10
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, key)
            require(value >= 1, f"config: train.{key} {value} must be at least 1")
        for key in ("learning_rate", "clip"):
            value = getattr(self, key)
            positive = math.isfinite(value) and value > 0
            require(positive, f"config: train.{key} {value} must be above 0")
        for key in ("weight_decay", "warmup_steps"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"config: train.{key} {value} must not be negative")
        for key, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            value = getattr(self, key)
            listed = ", ".join(known)
            require(value in known, f"config: train.{key} {value!r} is unknown; one of {listed}")

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        warm = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        left = max(self.steps - self.warmup_steps, 1)
        done = min(max(step - self.warmup_steps, 0) / left, 1.0)
        return self.learning_rate * warm * SCHEDULES[self.schedule](done)


class Interrupted(Exception):
    """A signal came; the run has been saved and can be resumed."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"saved {path}")
        self.number, self.path = number, path


def masked_mean(values: Tensor, weights: Tensor, accelerator: Accelerator | None = None) -> Tensor:
    """This rank's share of the weighted mean over the global batch; the ranks' shares add up to it.

    The only place where a loss is reduced. Means of each rank's own windows would weight a step by
    how much padding happens to lie beside it.
    """
    weights = weights.to(values.dtype)
    total = weights.sum()
    if accelerator is not None and accelerator.num_processes > 1:
        total = accelerator.reduce(total, "sum")
    return (values * weights).sum() / total


def start_accelerator(config: TrainConfig, processes: int | None) -> Accelerator:
    """An Accelerator over as many processes as were launched; UserError where they are not one.

    On a CPU, `accelerate launch --cpu --num_processes N` starts a single process, and a plain
    Accelerator under torchrun trains N separate copies: neither is let pass.
    """
    AcceleratorState._reset_state()  # a second run in this process may have another precision
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=PRECISIONS[config.precision]
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    world = accelerator.num_processes
    if world != launched or (processes is not None and processes != world):
        raise UserError(
            f"{processes or launched} processes were asked for, but {world} train together; launch"
            " with `accelerate launch --multi_gpu --num_processes N -m decision_seq train"
            " --processes N` (on CPUs with ACCELERATE_USE_CPU=true; its `--cpu` starts only one)"
        )
    require(
        config.batch_size % world == 0,
        f"config: train.batch_size {config.batch_size} does not divide among {world} processes",
    )
    return accelerator


class Trainer:
    """The loop over updates, one in every process of a launch.

    config, seed: what to do; policy: fitted to the data, with the same weights in every process;
    index, gatherer: where the windows come from; output: the run's folder; described: the tree that
    goes into every checkpoint's config.yaml.
    """

    def __init__(
        self,
        config: TrainConfig,
        seed: int,
        policy: Policy,
        index: WindowIndex,
        gatherer: WindowGatherer,
        output: Path,
        described: dict[str, Any],
        accelerator: Accelerator,
        reporter: Reporter,
    ) -> None:
        self.config, self.seed = config, seed
        self.policy, self.model = policy, accelerator.prepare(policy)
        self.index, self.gatherer = index, gatherer
        self.output, self.described = output, described
        self.accelerator, self.reporter = accelerator, reporter
        trained = [weight for weight in policy.parameters() if weight.requires_grad]
        # Decay on all parameters, LayerNorms and biases too, as in the original's code.
        self.optimizer = torch.optim.AdamW(
            trained, config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.step = 0
        self.signal: int | None = None

    def resume(self) -> None:
        """Go on from the newest checkpoint; from the beginning where there is none yet."""
        found = checkpoint.checkpoints(self.output / "checkpoints")
        if not found:
            self.reporter.say(f"no checkpoint yet in {self.output}: starts from the beginning")
            return
        checkpoint.load_weights(self.policy, found[-1])
        checkpoint.load_optimizer(self.optimizer, found[-1])
        self.step = checkpoint.read_trainer(found[-1])["step"]
        self.reporter.say(f"resumed from {found[-1]}")

    def run(self) -> None:
        """Train to the last step, saving on the way; Interrupted after a signal."""
        main = self.accelerator.is_main_process
        steps = self.config.steps
        metrics = Metrics(self.output, self.step) if main else None
        with self._signals(), self.reporter.bar("train", "update", steps, self.step) as bar:
            started, since = time.perf_counter(), self.step
            while self.step < steps:
                logged = (self.step + 1) % self.config.log_every == 0
                # A loss is looked at before its update may be saved.
                record = self._update(logged or self._due(self.step + 1))
                self.step += 1
                bar.update()
                if record and metrics:
                    elapsed = time.perf_counter() - started
                    rate = (self.step - since) / elapsed
                    started, since = time.perf_counter(), self.step
                    metrics.write({"step": self.step, **record, "updates_per_second": rate})
                    bar.set_postfix_str(f"loss {record['loss']:.4f}", refresh=False)
                if self.signal is not None or self._due(self.step):
                    path = self._save()
                    if self.signal is not None:
                        raise Interrupted(self.signal, path)
        self._check_replicas()
        if metrics:
            metrics.close()

    def _due(self, step: int) -> bool:
        return step % self.config.checkpoint_every == 0 or step == self.config.steps

    def _update(self, wanted: bool) -> dict[str, float] | None:
        """One optimiser step; its metrics when they are wanted (reading them waits for a GPU)."""
        config, accelerator = self.config, self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        ids = window_ids(self.seed, self.step, config.batch_size, self.index)
        batch = self.gatherer.gather(rank_slice(ids, rank, world)).tensors(accelerator.device)
        torch.manual_seed(_step_seed(self.seed, self.step, rank))
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        losses = {
            name: masked_mean(values, weights, accelerator)
            for name, (values, weights) in self.model(batch).items()
        }
        share = torch.stack(list(losses.values())).sum()
        accelerator.backward(share * world)  # DDP averages the gradients of the shares
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.clip)
        self.optimizer.step()
        self.policy.after_step()
        if not wanted:
            return None
        totals = accelerator.reduce(torch.stack(list(losses.values())).detach(), "sum").tolist()
        record = {"loss": sum(totals), "gradient_norm": float(norm), "learning_rate": rate}
        if not math.isfinite(record["loss"] + record["gradient_norm"]):
            raise UserError(
                f"the loss became {record['loss']}, its gradient {record['gradient_norm']}, at or"
                f" before update {self.step + 1}; lower"
                " train.learning_rate, or look for absurd numbers in the data"
            )
        return {
            **record,
            **{f"loss/{name}": value for name, value in zip(losses, totals, strict=True)},
        }

    def _save(self) -> Path:
        folder = self.output / "checkpoints"
        path = folder / f"{checkpoint.PREFIX}{self.step:08d}"
        if self.accelerator.is_main_process:
            path = checkpoint.save(
                folder,
                self.step,
                self.policy,
                self.optimizer,
                self.described,
                {"world_size": self.accelerator.num_processes},
                self.config.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()
        return path

    def _check_replicas(self) -> None:
        """Every process must hold the same parameters to the bit; anything else is our bug."""
        digest = hashlib.sha256()
        for weight in self.policy.state_dict().values():
            digest.update(weight.cpu().numpy().tobytes())
        own = torch.tensor(int.from_bytes(digest.digest()[:7]), device=self.accelerator.device)
        all_digests = self.accelerator.gather(own.reshape(1)).tolist()
        if len(set(all_digests)) != 1:
            raise RuntimeError(f"the processes ended with different parameters: {all_digests}")
        if len(all_digests) > 1:
            self.reporter.say(
                f"{len(all_digests)} processes ended with the same parameters ({all_digests[0]:x})"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """With one process, SIGINT and SIGTERM end the run after the update at hand."""
        if self.accelerator.num_processes > 1:
            yield
            return

        def remember(number: int, _: Any) -> None:
            self.signal = number

        former = {
            number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
