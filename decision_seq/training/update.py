"""One optimizer update: windows -> batch -> losses -> gradient -> weights.

The windows of the global batch are a function of (seed, step). World size and accumulation only
split them, and every loss is divided by the sum of the weights over the global batch, so the
gradient does not depend on the split.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from decision_seq.models.backbones import State
from decision_seq.policies import Policy
from decision_seq.policies.base import Learnt
from decision_seq.sequences.windows import Sampler, rank_slice
from decision_seq.training.config import PRECISIONS, TrainConfig
from decision_seq.training.groups import set_rate
from decision_seq.training.parallel import last_backward
from decision_seq.types import Batch

_POLICY_STREAM = 0x501C1  # separates the policy's seed from torch's seed of a rank
STEPS = " steps"  # key of the real steps in the summed weights; metrics are averaged over them


class Source(Protocol):
    """Protocol of a source of windows; see `sequences.device`."""

    def batch(self, ids: np.ndarray) -> Batch:
        """Rows of first transitions [B] -> a torch Batch on the device."""


@dataclass
class UpdateResult:
    """The result of an update, on the device; reading a tensor waits for the update."""

    losses: dict[str, Tensor]
    """This rank's shares of the losses, without their factors; over all ranks they add up to the
    global means."""
    metrics: dict[str, Tensor]
    """This rank's shares of the metrics, as for `losses`."""
    gradient_norm: Tensor
    """Norm of the global gradient before clipping."""
    learning_rate: float
    """Learning rate of the update."""
    data_seconds: float
    """Seconds spent on gathering windows."""
    signalled: bool
    """Whether any rank received a signal before this update."""


def masked_mean(values: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """The weighted mean of values [B, T]; with `total`, this part's share of a larger mean.

    All losses are reduced here. total: the sum of the weights over the global batch, so that the
    shares of all ranks and micro-batches add up to its mean. (Averaging the means of the ranks
    would make the weight of a step depend on the padding in its rank's windows.) The mean is 0
    where all weights are 0.
    """
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()  # in half precision a sum of 1281 is 1280, or infinite
    weights = weights.to(values.dtype)
    total = weights.sum() if total is None else total.to(values.dtype)
    return (values * weights).sum() / total.clamp_min(torch.finfo(values.dtype).tiny)


def update_seeds(seed: int, step: int, rank: int, part: int) -> tuple[int, int]:
    """Seeds of torch's generator and of the policy's generator in one micro-batch.

    All random numbers are a function of (seed, step, rank, part), so no generator state is carried
    on. The policy's seed is the same in every micro-batch of the update: the numbers that it draws
    depend on each window's row in the store.
    """

    def made(*entropy: int) -> int:
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    return made(seed, step, rank, part), made(seed, step, _POLICY_STREAM)


class Update:
    """One training update: `update(step)` trains the policy on the batch of that step.

    carried: the initial state of the next windows of every micro-batch, where the sampler is
    consecutive and the policy carries a state; else None.
    """

    def __init__(
        self,
        config: TrainConfig,
        seed: int,
        policy: Policy,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sampler: Sampler,
        source: Source,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.seed = config, seed
        self.policy, self.model, self.optimizer = policy, model, optimizer
        self.sampler, self.source, self.accelerator = sampler, source, accelerator
        self.carried: list[State | None] = [None] * config.accumulation
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.autocast_dtype = PRECISIONS[config.precision][1]
        # Half-precision gradients underflow unless the loss is scaled up. The scale adapts, and is
        # saved in checkpoints.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.autocast_dtype == torch.float16
        )

    def __call__(self, step: int, signalled: bool = False) -> UpdateResult:
        started = time.perf_counter()
        batches = [self.source.batch(part) for part in self.parts(step)]
        data_seconds = time.perf_counter() - started
        seeds = [update_seeds(self.seed, step, self.rank, part) for part in range(len(batches))]
        rate = self.config.rate(step)
        set_rate(self.optimizer, rate)
        self.model.train()
        self.optimizer.zero_grad()
        weights = [
            self.policy.weights(batch, self._rng(policy_seed))
            for batch, (_, policy_seed) in zip(batches, seeds, strict=True)
        ]
        for batch, named in zip(batches, weights, strict=True):
            named[STEPS] = batch.mask
        exchange = self._exchange(weights, signalled)
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for part, (batch, (torch_seed, policy_seed)) in enumerate(zip(batches, seeds, strict=True)):
            torch.manual_seed(torch_seed)
            with last_backward(self.model, part == len(batches) - 1):
                learnt = self._forward(batch, self._rng(policy_seed), self.carried[part])
                self._carry(part, learnt.state)
                sums, flag = exchange()
                totals = dict(sums)
                steps = totals.pop(STEPS)
                values = learnt.losses
                shares = {n: masked_mean(values[n], weights[part][n], totals[n]) for n in totals}
                # DDP and FSDP average over the ranks, but the shares must be summed.
                self.scaler.scale(self.total(shares) * self.world).backward()
            losses = {n: losses.get(n, 0) + share.detach() for n, share in shares.items()}
            for name, value in (learnt.metrics or {}).items():
                share = masked_mean(value.detach(), batch.mask, steps)
                metrics[name] = metrics.get(name, 0) + share
        norm = self._apply()
        return UpdateResult(losses, metrics, norm, rate, data_seconds, flag())

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The sum of the losses times their factors, which is minimised."""
        factors = self.policy.loss_weights
        weighted = [
            share if factors.get(name, 1.0) == 1.0 else share * factors[name]
            for name, share in losses.items()
        ]
        return torch.stack(weighted).sum()

    def _carry(self, part: int, state: State | None) -> None:
        if self.sampler.consecutive and state is not None:
            self.carried[part] = {name: value.detach() for name, value in state.items()}

    def carried_rows(self) -> State:
        """This rank's rows of the carried state, in the order of the global batch; may be empty."""
        parts = [part for part in self.carried if part is not None]
        if not parts:
            return {}
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def carry_on(self, rows: State) -> None:
        """Set the carried state to this rank's rows, in the format of `carried_rows`."""
        count = self.config.accumulation
        for part in range(count):
            self.carried[part] = {
                name: value[rank_slice(np.arange(len(value)), part, count)]
                for name, value in rows.items()
            }

    def parts(self, step: int) -> list[np.ndarray]:
        """This rank's windows of `step`, one array per micro-batch."""
        mine = rank_slice(self.sampler.ids(step), self.rank, self.world)
        count = self.config.accumulation
        return [rank_slice(mine, part, count) for part in range(count)]

    def _forward(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """The policy's output for a batch, unreduced."""
        with torch.autocast(
            self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        ):
            return self.model(batch, rng, state)

    def _exchange(
        self, weights: list[dict[str, Tensor]], signalled: bool
    ) -> Callable[[], tuple[dict[str, Tensor], Callable[[], bool]]]:
        """Sums of weights over all ranks and micro-batches; whether any rank was signalled.

        This is one small message, sent before the forward pass and awaited after it. Ranks that
        were signalled at different times also agree by it on the update after which they stop.
        """
        names = sorted(weights[0])
        sums = [torch.stack([part[name].sum() for part in weights]).sum() for name in names]
        row = torch.stack([value.double() for value in sums])
        if self.world == 1:
            return lambda: (dict(zip(names, row, strict=True)), lambda: signalled)
        row = torch.cat([row, torch.tensor([signalled], dtype=row.dtype, device=self.device)])
        sent = torch.distributed.all_reduce(row, async_op=True)

        @functools.cache
        def arrived() -> tuple[dict[str, Tensor], Callable[[], bool]]:
            sent.wait()
            return dict(zip(names, row[:-1], strict=True)), _later(row[-1])

        return arrived

    def _apply(self) -> Tensor:
        """Clip the gradient and step -> the norm of the gradient before clipping."""
        self.scaler.unscale_(self.optimizer)
        largest = math.inf if self.config.clip is None else self.config.clip
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), largest)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.policy.after_step()
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _rng(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


def _later(flag: Tensor) -> Callable[[], bool]:
    """A function that reads a number without waiting for later work of the device."""
    if flag.device.type != "cuda":
        return lambda: bool(flag)
    host = torch.empty((), dtype=flag.dtype, pin_memory=True)
    host.copy_(flag, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> bool:
        copied.synchronize()
        return bool(host)

    return read
