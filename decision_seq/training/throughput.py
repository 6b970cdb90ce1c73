"""Throughput of a run: rates, FLOPs and memory."""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from decision_seq.models.fast.linear import flop_formulas
from decision_seq.policies import Policy
from decision_seq.sequences.device import HostSource
from decision_seq.training.update import masked_mean

# Dense peak TFLOP/s by precision, from NVIDIA's data sheets of the SXM boards. fp32 is without
# TF32, which PyTorch disables by default for matrix products.
PEAK_TFLOPS = {
    "Tesla V100-SXM2": {"fp32": 15.7, "fp64": 7.8, "fp16": 125.0},
    "NVIDIA A100": {"fp32": 19.5, "fp64": 19.5, "fp16": 312.0, "bf16": 312.0},
    "NVIDIA H100 80GB HBM3": {"fp32": 67.0, "fp64": 67.0, "fp16": 989.0, "bf16": 989.0},
    "NVIDIA H200": {"fp32": 67.0, "fp64": 67.0, "fp16": 989.0, "bf16": 989.0},
}


@dataclass(frozen=True)
class Cost:
    """Cost of one window."""

    flops: float
    """FLOPs of the matrix products and attentions in the forward and backward pass.

    These are model FLOPs: recomputation by activation checkpointing is not counted.
    """
    tokens: int
    """Positions in the backbone's input, padding included; steps where there is no backbone."""


def cost_of_a_window(policy: Policy, source: HostSource) -> Cost:
    """Count the cost of a real window, before the policy is distributed; gradients are cleared."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    batch = source.batch(np.zeros(1, np.int64))
    seen: list[int] = []
    backbone = getattr(policy, "backbone", None)
    hook = (
        backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        if backbone is not None
        else None
    )
    rng = torch.Generator(batch.mask.device).manual_seed(0)
    weights = policy.weights(batch, rng)
    # The counter does not know the CPU's fused attention; the unfused one has the same products.
    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    recurrent = any(isinstance(module, nn.RNNBase) for module in policy.modules())
    unfused = _unfused() if recurrent else nullcontext()
    with counter, sdpa_kernel(SDPBackend.MATH), unfused:
        values = policy(batch, rng.manual_seed(0)).losses
        torch.stack([masked_mean(values[name], weights[name]) for name in values]).sum().backward()
    if hook is not None:
        hook.remove()
    policy.zero_grad()
    tokens = sum(seen) if seen else batch.mask.shape[1]
    return Cost(float(counter.get_total_flops()), tokens)


@contextmanager
def _unfused() -> Iterator[None]:
    """Recurrent layers as products, which the FLOP counter knows; it does not know fused ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of settings for Intel's GPUs
        mkldnn = torch.backends.mkldnn.flags(enabled=False)
        with mkldnn, torch.backends.cudnn.flags(enabled=False):
            yield


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """The known dense peak of the device; None for devices not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [peaks for board, peaks in PEAK_TFLOPS.items() if name.startswith(board)]
    slower = name.endswith("NVL")  # the same chip at a lower clock
    return known[0].get(precision) if known and not slower else None


class Throughput:
    """Measures the rates between two readings."""

    def __init__(self, batch_size: int, cost: Cost, peak: float | None, world: int) -> None:
        self.batch_size, self.cost, self.world = batch_size, cost, world
        self.peak = peak
        self.begin()

    def begin(self) -> None:
        """Restart the count, to leave out time that is not training (checkpoint, evaluation)."""
        self.started, self.updates, self.waited = time.perf_counter(), 0, 0.0

    def add(self, data_seconds: float) -> None:
        """Count one update. data_seconds: the time spent on gathering its windows."""
        self.updates += 1
        self.waited += data_seconds

    def read(self, device: torch.device) -> dict[str, float]:
        """The rates since the last reading; windows, tokens and FLOPs are those of all ranks."""
        seconds = time.perf_counter() - self.started
        updates_per_second = self.updates / seconds
        windows = updates_per_second * self.batch_size
        tflops = windows * self.cost.flops / 1e12
        record = {
            "updates_per_second": updates_per_second,
            "windows_per_second": windows,
            "tokens_per_second": windows * self.cost.tokens,
            "model_tflops": tflops,
            "data_wait": self.waited / seconds,
            "memory_gib": memory_gib(device),
        }
        if self.peak is not None:
            record["mfu"] = tflops / (self.peak * self.world)
        self.begin()
        return record


def memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: its tensors on a GPU, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
