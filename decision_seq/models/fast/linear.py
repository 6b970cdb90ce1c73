"""Linear layers by oneDNN, on processors where it multiplies faster than torch's own choice.

Plain form: `F.linear`, then the activation. On x86 torch multiplies fp32 by MKL, which leaves the
AVX-512 of other makers' processors unused. oneDNN, which comes with torch, uses it, and applies the
activation while the product is in the processor's cache.

Gain: only on processors with AVX-512 (fp32) or with bf16 arithmetic (bf16); elsewhere the plain
form serves. Recorded in experiments/results/speed.md, on AMD EPYC, 2 cores, AVX-512, and not
measured again on the AVX2 machine of today: an update of the paper's model in 66.7 ms, 2.03 times
transformers' speed, where AVX2 without oneDNN had 1.46 times (`decision-seq bench train`); a plan
for one environment in 179 ms, where AVX2 without oneDNN took 452 ms (`decision-seq bench plan`); a
rollout with bf16 weights 6.53 times the original's speed, fp32 5.01 times (`decision-seq bench
evaluate`).
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

# The names that oneDNN has for an activation after a product.
NAMES: dict[type[nn.Module], str] = {nn.Identity: "none", nn.ReLU: "relu", nn.GELU: "gelu"}
IDENTITY = nn.Identity()
FEWEST = 64  # rows of fp32 from which oneDNN is faster: its call costs more than MKL's
Module = TypeVar("Module", bound=nn.Module)


def linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module = IDENTITY
) -> Tensor:
    """A linear layer and the activation after it, one of `NAMES`.

    inputs [..., I], weight [O, I], bias [O] -> [..., O]. bf16 weights, which copies by `lowered`
    have, are for use without a gradient.
    """
    if not onednn_helps(inputs, weight):
        return activation(F.linear(inputs, weight, bias))
    name = NAMES[type(activation)]
    if not torch.is_grad_enabled():
        return _multiply(inputs.to(weight.dtype), weight, bias, name)
    if name == "relu":
        return _OneDNNLinear.apply(inputs, weight, bias, name)
    return activation(_OneDNNLinear.apply(inputs, weight, bias, "none"))


def onednn_helps(inputs: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies these faster than `F.linear`.

    fp32: on AVX-512, from `FEWEST` rows on. bf16 weights: on processors with bf16 arithmetic,
    without a gradient, where the inputs are bf16 or autocast would lower them.
    """
    if inputs.device.type != "cpu" or torch.compiler.is_compiling() or not has_onednn():
        return False
    lowers = torch.is_autocast_enabled("cpu")
    if weight.dtype == torch.bfloat16:
        suits = lowers or inputs.dtype == torch.bfloat16
        return suits and not torch.is_grad_enabled() and _multiplies_bf16()
    return (
        inputs.dtype == weight.dtype == torch.float32
        and not lowers
        and inputs.numel() >= FEWEST * inputs.shape[-1]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def lowered(module: Module, dtype: torch.dtype) -> Module:
    """A copy whose linear layers hold their weights in a lower precision.

    Under autocast, which the rest of the module still needs, it computes what the module does;
    autocast alone would convert the weights at every product.
    """
    made = copy.deepcopy(module)
    for part in made.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
    return made


@cache
def operator() -> Any | None:
    """oneDNN's linear layer, an operator private to torch; None where torch is built without it."""
    return getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)


def has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and operator() is not None


@cache
def _multiplies_bf16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and supported()


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of `operator` from shapes: the `custom_mapping` of torch's FlopCounterMode."""
    found = operator()
    return {} if found is None else {found: _flops}


def _flops(inputs: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * inputs.numel() * weight[0]


def _multiply(
    inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    multiply, exact = operator(), "none"  # `exact`: of oneDNN's two formulas of a GELU
    assert multiply is not None, "oneDNN was chosen where torch has none"
    return multiply.default(inputs, weight, bias, activation, [], exact)


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> Tensor:
        result = _multiply(inputs, weight, bias, activation)  # [..., O]
        # The gradient of a ReLU needs its output only.
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
            found[0] = _multiply(gradient, weight.mT).view_as(inputs)  # [..., I]
        if ctx.needs_input_grad[1]:
            found[1] = _multiply(gradient.mT, inputs.flatten(0, -2).mT)  # [O, I]
        if ctx.needs_input_grad[2]:
            found[2] = gradient.sum(0)  # [O]
        return tuple(found)
