"""How fast a run goes, and how much of the machine it uses."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from decision_seq.models.fast.linear import flop_formulas
from decision_seq.policies import Policy
from decision_seq.train.source import HostSource
from decision_seq.train.update import masked_mean

# Dense peak TFLOP/s by precision, from NVIDIA's data sheets of the SXM boards. fp32 is without
# TF32, which PyTorch leaves off for matrix products.
PEAK_TFLOPS = {
    "Tesla V100-SXM2": {"fp32": 15.7, "fp64": 7.8, "fp16": 125.0},
    "NVIDIA A100": {"fp32": 19.5, "fp64": 19.5, "fp16": 312.0, "bf16": 312.0},
    "NVIDIA H100 80GB HBM3": {"fp32": 67.0, "fp64": 67.0, "fp16": 989.0, "bf16": 989.0},
    "NVIDIA H200": {"fp32": 67.0, "fp64": 67.0, "fp16": 989.0, "bf16": 989.0},
}


@dataclass(frozen=True)
class Cost:
    """What one window costs.

    flops: of the matrix products and attentions in its forward and backward pass (model FLOPs:
    what activation checkpointing computes again is not counted); tokens: positions that the
    backbone sees, padding included; steps of the window where a policy has no backbone.
    """

    flops: float
    tokens: int


def cost_of_a_window(policy: Policy, source: HostSource) -> Cost:
    """Count a real window through the policy, before it is distributed. Leaves no gradients."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    batch = source.batch(np.zeros(1, np.int64))
    seen = [batch.mask.shape[1]]
    backbone = getattr(policy, "backbone", None)
    hook = (
        backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        if backbone is not None
        else None
    )
    rng = torch.Generator(batch.mask.device).manual_seed(0)
    weights = policy.weights(batch, rng)
    # The counter does not know the CPU's fused attention; the plain one has the same products.
    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    with counter, sdpa_kernel(SDPBackend.MATH):
        values = policy(batch, rng.manual_seed(0))
        torch.stack([masked_mean(values[name], weights[name]) for name in values]).sum().backward()
    if hook is not None:
        hook.remove()
    policy.zero_grad()
    return Cost(float(counter.get_total_flops()), seen[-1])


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """The known dense peak of the device, None for one that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [peaks for board, peaks in PEAK_TFLOPS.items() if name.startswith(board)]
    slower = name.endswith("NVL")  # the same chip at a lower clock
    return known[0].get(precision) if known and not slower else None


class Throughput:
    """Rates between two readings."""

    def __init__(self, batch_size: int, cost: Cost, peak: float | None, world: int) -> None:
        self.batch_size, self.cost, self.world = batch_size, cost, world
        self.peak = peak
        self.begin()

    def begin(self) -> None:
        """Count from now on; what lies between (a checkpoint, an evaluation) is not training."""
        self.started, self.updates, self.waited = time.perf_counter(), 0, 0.0

    def add(self, data_seconds: float) -> None:
        """One update, and what of it was spent on gathering its windows."""
        self.updates += 1
        self.waited += data_seconds

    def read(self, device: torch.device) -> dict[str, float]:
        """The rates since the last reading. Windows, tokens and FLOPs are the whole launch's."""
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
    """The most that this process has held: on a GPU its tensors, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
