"""Attention by plain matrix products on a CPU, where torch's fused kernel is slower.

Plain form: `F.scaled_dot_product_attention`. The fast form writes the formula out (see
`layers.attend`); this module decides between the two.

Gain with dropout: an update of the paper's model takes 1.08 times as long by the fused kernel
(2026-11-28, AVX2 EPYC, one thread of a busy machine, CPU time, median of 20 interleaved rounds of
the update of `decision-seq bench train`; 1.03 in a run of 10). Without dropout, in fp32, the fused
kernel is faster there: 0.92 of the time of a rollout's step. In bf16 only processors with bf16
arithmetic can gain, which was not measured again on that machine; experiments/results/speed.md has
rollouts in bf16 at 6.53 times the original's speed where fp32 had 5.01 (`decision-seq bench
evaluate`, AVX-512), by all forms together.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_KEYS = 256  # in bf16; a map of weights over more takes too much memory


def written_out_helps(query: Tensor, key: Tensor, drops: bool) -> bool:
    """Whether to write attention out; drops: dropout applies to the weights.

    Torch's kernel for CPUs has no dropout: with dropout torch writes attention out itself, with
    masks that are slow to draw (see `fast.dropout`). In bf16 that kernel keeps the pace of fp32,
    while products use bf16 arithmetic where the processor has it.
    """
    if query.device.type != "cpu":
        return False
    if drops or key.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return drops
    return key.shape[2] <= MOST_KEYS  # last: an exported graph has no fixed length
