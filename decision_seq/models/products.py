"""Linear layers that multiply with what a processor has.

On x86 torch hands fp32 products to MKL, which leaves the AVX-512 of other makers' processors
unused; oneDNN, which torch brings along too, uses it (`decision-seq bench train`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

OPERATOR = torch.ops.mkldnn._linear_pointwise
# What oneDNN calls what may follow a product.
NAMES: dict[type[nn.Module], str] = {nn.Identity: "none", nn.ReLU: "relu", nn.GELU: "gelu"}
NOTHING = nn.Identity()
FEWEST = 64  # rows from which oneDNN's longer way to a product is worth it


def linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module = NOTHING
) -> Tensor:
    """`F.linear`, by oneDNN where that helps: [..., I], [O, I], [O] -> [..., O].

    activation: what follows, one of `NAMES`; oneDNN does it in passing.
    """
    if not _quicker(inputs, weight):
        return activation(F.linear(inputs, weight, bias))
    name = NAMES[type(activation)]
    if not torch.is_grad_enabled():
        return _product(inputs, weight, bias, name)
    if name == "relu":
        return _Product.apply(inputs, weight, bias, name)
    return activation(_Product.apply(inputs, weight, bias, "none"))


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)


def _quicker(inputs: Tensor, weight: Tensor) -> bool:
    return (
        inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() >= FEWEST * inputs.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def _product(
    inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    exact = "none"  # of oneDNN's two ways to a GELU
    return OPERATOR(inputs, weight, bias, activation, [], exact)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> Tensor:
        result = _product(inputs, weight, bias, activation)
        # The way back through a ReLU is known by its outcome alone.
        ctx.save_for_backward(inputs, weight, result if activation == "relu" else None)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, positive = ctx.saved_tensors
        if positive is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, positive, 0)
        gradient = gradient.flatten(0, -2)  # [N, O]
        found: list[Tensor | None] = [None, None, None, None]
        if ctx.needs_input_grad[0]:
            found[0] = _product(gradient, weight.mT).view_as(inputs)
        if ctx.needs_input_grad[1]:
            found[1] = _product(gradient.mT, inputs.flatten(0, -2).mT)
        if ctx.needs_input_grad[2]:
            found[2] = gradient.sum(0)
        return tuple(found)


@register_flop_formula(OPERATOR)
def _operations(inputs: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """For torch's counter, which knows its own products alone."""
    return 2 * inputs.numel() * weight[0]
