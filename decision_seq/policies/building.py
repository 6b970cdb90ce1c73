"""Building of a policy whose sizes a stranger's file declares, in memory that its weights bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from decision_seq.policies.base import Policy, PolicyConfig
from decision_seq.tensor_files import Shapes, elements
from decision_seq.types import Spec

SPARE_ELEMENTS, SPARE_TENSORS = 1 << 24, 1_000  # tensors that are made and not saved
MOST_CONTEXT = 1 << 25  # numbers in the context of one rollout


def build_to_fit(config: PolicyConfig, spec: Spec, shapes: Shapes) -> Policy:
    """Build the policy whose weights have these shapes.

    ValueError, before much memory or time is taken, where the declared sizes need far more than the
    weights have.
    """
    total = elements(shapes)
    declared = [*spec.observation_shape, spec.action_size, spec.condition_size]
    # Each of these is a length of some weight or buffer of every policy.
    if not all(type(size) is int and 0 <= size <= total for size in declared):
        raise ValueError(f"sizes: {declared} are declared, and the weights have {total:,} numbers")
    step = math.prod(spec.observation_shape) + spec.action_size + spec.condition_size
    if step * config.context_length > MOST_CONTEXT:
        raise ValueError(f"sizes: {config.context_length:,} steps of {step:,} numbers are declared")
    with _Counting(4 * total + SPARE_ELEMENTS, 8 * len(shapes) + SPARE_TENSORS):
        return config.build(spec)


class _Counting(TorchFunctionMode):
    """Counts the tensors that are created and their elements; ValueError above a limit."""

    def __init__(self, elements: int, tensors: int) -> None:
        super().__init__()
        self.elements, self.tensors = elements, tensors

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        size = SIZES.get(func)
        if size is not None:
            self.tensors -= 1
            self.elements -= size(args, kwargs)
            if min(self.elements, self.tensors) < 0:
                raise ValueError("sizes: the policy would be far larger than its weights")
        return func(*args, **kwargs)


def _product(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Elements of `torch.zeros(2, 3)`, `torch.zeros((2, 3))` or `torch.zeros(size=(2, 3))`."""
    sizes = kwargs.get("size", args)
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        sizes = sizes[0]
    return math.prod(int(length) for length in sizes)


def _repeated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return args[0].numel() * _product(args[1:], {})


def _ranged(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return int(args[0] if len(args) == 1 else args[1] - args[0])


SIZES: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], int]] = {
    **dict.fromkeys((torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn), _product),
    torch.full: lambda args, kwargs: _product(args[:1], {}),
    torch.arange: _ranged,
    torch.Tensor.repeat: _repeated,
}
