"""Linear layers that multiply with what a processor has.

On x86 torch hands fp32 products to MKL, which leaves the AVX-512 of other makers' processors
unused; oneDNN, which torch brings along too, uses it (`decision-seq bench train`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    low = _low(inputs, weight)
    if not (low or _quicker(inputs, weight)):
        return activation(F.linear(inputs, weight, bias))
    name = NAMES[type(activation)]
    if low:
        return _product(inputs.to(weight.dtype), weight, bias, name)
    if not torch.is_grad_enabled():
        return _product(inputs, weight, bias, name)
    if name == "relu":
        return _Product.apply(inputs, weight, bias, name)
    return activation(_Product.apply(inputs, weight, bias, "none"))


class Product:
    """`linear` without gradient, for so many rows, in the weight's type: who multiplies is decided
    once."""

    def __init__(
        self, weight: Tensor, bias: Tensor, rows: int, activation: nn.Module = NOTHING
    ) -> None:
        self.weight, self.bias, self.activation = weight, bias, activation
        if weight.dtype == torch.bfloat16:
            self.quicker = weight.device.type == "cpu" and _multiplies_bf16()
        else:
            self.quicker = _quicker(weight.new_empty(rows, weight.shape[1]), weight)
        self.name = NAMES[type(activation)]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[rows, I] of the weight's type -> [rows, O]."""
        if self.quicker:
            return _product(inputs, self.weight, self.bias, self.name)
        return self.activation(F.linear(inputs, self.weight, self.bias))


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)


Lowered = TypeVar("Lowered", bound=nn.Module)


def lowered(module: Lowered, dtype: torch.dtype) -> Lowered:
    """A copy whose linear layers hold their weights in a lower precision, as autocast, which is
    still needed for all else, would make them of fp32 at every product."""
    made = copy.deepcopy(module)
    for part in made.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
    return made


def _low(inputs: Tensor, weight: Tensor) -> bool:
    """Whether autocast would let oneDNN multiply, of weights that are lowered, without gradient."""
    return (
        weight.dtype == torch.bfloat16
        and inputs.device.type == "cpu"
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _multiplies_bf16()
    )


@cache
def operator() -> Any | None:
    """oneDNN's linear layer, an operator private to torch; None where torch is built without it."""
    return getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of `operator` from shapes: the `custom_mapping` of torch's FlopCounterMode."""
    found = operator()
    return {} if found is None else {found: _operations}


@cache
def _multiplies_bf16() -> bool:
    supported = getattr(
        getattr(torch.ops, "mkldnn", None), "_is_mkldnn_bf16_supported", lambda: False
    )
    return _has_onednn() and supported()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and operator() is not None


def _quicker(inputs: Tensor, weight: Tensor) -> bool:
    return (
        inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() >= FEWEST * inputs.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _has_onednn()
    )


def _product(
    inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    multiply, exact = operator(), "none"  # of oneDNN's two ways to a GELU
    assert multiply is not None, "asked for oneDNN where torch has none"
    return multiply.default(inputs, weight, bias, activation, [], exact)


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


def _operations(inputs: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * inputs.numel() * weight[0]
