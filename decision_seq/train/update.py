"""One optimiser update: windows -> batch -> losses -> gradient -> weights.

The windows of the global batch are a function of (seed, step). World size and accumulation only
slice them, and every loss is divided by the weights of the global batch, so the gradient is the
same however it is sliced.
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

from decision_seq.data.sampler import Sampler, rank_slice
from decision_seq.models.backbones import State
from decision_seq.policies import Policy
from decision_seq.policies.base import Learnt
from decision_seq.train.config import PRECISIONS, TrainConfig
from decision_seq.train.groups import set_rate
from decision_seq.train.parallel import last_backward
from decision_seq.types import Batch

_POLICYS = 0x501C1  # keeps the policy's seed apart from torch's, that of a rank
STEPS = " steps"  # among the summed weights: real steps, by which metrics are averaged


class Source(Protocol):
    """Where windows come from: `data.sampler.WindowGatherer` behind a copy, or the device's own."""

    def batch(self, ids: np.ndarray) -> Batch:
        """Rows of first transitions [B] -> a torch Batch on the device."""


@dataclass
class Outcome:
    """The result of an update, on the device; reading a tensor waits for it."""

    # This rank's shares, which add up to the global means: losses without their factors.
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    gradient_norm: Tensor  # before clipping, of the global gradient
    learning_rate: float
    data_seconds: float  # spent on gathering windows
    signalled: bool  # some rank was signalled before this update


def masked_mean(values: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """The weighted mean of values [B, T]; with `total`, this part's share of a larger mean.

    The only place where a loss is reduced. total: the weights of the whole global batch, so that
    the shares of all ranks and micro-batches add up to its mean. Means of each rank's own windows
    would weight a step by how much padding happens to lie beside it. Without any weight, 0.
    """
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()  # where a count of 1281 would be 1280, or infinite
    weights = weights.to(values.dtype)
    total = weights.sum() if total is None else total.to(values.dtype)
    return (values * weights).sum() / total.clamp_min(torch.finfo(values.dtype).tiny)


def update_seeds(seed: int, step: int, rank: int, part: int) -> tuple[int, int]:
    """Of torch's own generator, and of the policy's, in one micro-batch.

    Everything random in it is a function of where it stands; nothing is carried on. The policy's is
    that of every micro-batch of the update: what it draws follows from each window's own row.
    """

    def made(*entropy: int) -> int:
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    return made(seed, step, rank, part), made(seed, step, _POLICYS)


class Update:
    """One training update: `update(step)` trains the policy on the batch of that step.

    carried: of every micro-batch the state that its next windows begin with, where the sampler is
    consecutive and the policy carries one.
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
        # Half-precision gradients vanish unless the loss is scaled up; the scale adapts, and is
        # part of a checkpoint.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.autocast_dtype == torch.float16
        )

    def __call__(self, step: int, signalled: bool = False) -> Outcome:
        started = time.perf_counter()
        batches = [self.source.batch(part) for part in self.parts(step)]
        data_seconds = time.perf_counter() - started
        seeds = [update_seeds(self.seed, step, self.rank, part) for part in range(len(batches))]
        rate = self.config.rate(step)
        set_rate(self.optimizer, rate)
        self.model.train()
        self.optimizer.zero_grad()
        weights = [
            self.policy.weights(batch, self._rng(own))
            for batch, (_, own) in zip(batches, seeds, strict=True)
        ]
        for batch, named in zip(batches, weights, strict=True):
            named[STEPS] = batch.mask
        exchange = self._exchange(weights, signalled)
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for part, (batch, (everyones, own)) in enumerate(zip(batches, seeds, strict=True)):
            torch.manual_seed(everyones)
            with last_backward(self.model, part == len(batches) - 1):
                learnt = self._forward(batch, self._rng(own), self.carried[part])
                self._carry(part, learnt.state)
                sums, flag = exchange()
                totals = dict(sums)
                steps = totals.pop(STEPS)
                values = learnt.losses
                shares = {n: masked_mean(values[n], weights[part][n], totals[n]) for n in totals}
                # DDP and FSDP average over the ranks what is to be added up.
                self.scaler.scale(self.total(shares) * self.world).backward()
            losses = {n: losses.get(n, 0) + share.detach() for n, share in shares.items()}
            for name, value in (learnt.metrics or {}).items():
                share = masked_mean(value.detach(), batch.mask, steps)
                metrics[name] = metrics.get(name, 0) + share
        norm = self._apply()
        return Outcome(losses, metrics, norm, rate, data_seconds, flag())

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The sum that is minimised: every loss times its factor."""
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
        """The carried state of this rank's rows, in the order of the global batch; maybe empty."""
        parts = [part for part in self.carried if part is not None]
        if not parts:
            return {}
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def carry_on(self, rows: State) -> None:
        """Take this rank's rows of a state, as `carried_rows` gave it."""
        count = self.config.accumulation
        for part in range(count):
            self.carried[part] = {
                name: value[rank_slice(np.arange(len(value)), part, count)]
                for name, value in rows.items()
            }

    def parts(self, step: int) -> list[np.ndarray]:
        """This rank's windows of `step`, one array a micro-batch."""
        mine = rank_slice(self.sampler.ids(step), self.rank, self.world)
        count = self.config.accumulation
        return [rank_slice(mine, part, count) for part in range(count)]

    def _forward(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        """What the policy learns of a batch, unreduced."""
        with torch.autocast(
            self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        ):
            return self.model(batch, rng, state)

    def _exchange(
        self, weights: list[dict[str, Tensor]], signalled: bool
    ) -> Callable[[], tuple[dict[str, Tensor], Callable[[], bool]]]:
        """Sums of weights over all ranks and micro-batches; whether any rank was signalled.

        One small message, begun before the forward pass and awaited behind it. It is also the one
        moment at which ranks that were signalled at different times can agree on the update after
        which they stop.
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
        """Clip and step -> the norm of the gradient before."""
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
    """Reads a number without waiting for what the device is given to do after it."""
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
