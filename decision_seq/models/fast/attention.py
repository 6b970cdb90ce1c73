"""Attention by plain matrix products on a CPU, where torch's fused kernel is slower.

Plain form: `F.scaled_dot_product_attention`. The fast form writes the formula out (see
`layers.attend`); this module decides between the two.

GAIN
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
    few = key.shape[2] <= MOST_KEYS and not torch.is_grad_enabled()
    return query.device.type == "cpu" and (drops or (key.dtype == torch.bfloat16 and few))
