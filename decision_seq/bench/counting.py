"""Counts of a computation: its operators, newly allocated bytes and matrix products.

The counts depend neither on the machine's speed nor on its load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, shape_wrapper

from decision_seq.models.fast.linear import flop_formulas

# Fused attention, by operator: the index of the query among its arguments, and the number of matrix
# products. The backward pass computes the attention weights again. That is not counted, because
# model FLOPs exclude recomputation.
ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu": (0, 2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (1, 4),
    "_scaled_dot_product_flash_attention": (0, 2),
    "_scaled_dot_product_flash_attention_backward": (1, 4),
    "_scaled_dot_product_efficient_attention": (0, 2),
    "_scaled_dot_product_efficient_attention_backward": (1, 4),
}


def _attention(first: int, products: int) -> Callable[..., int]:
    """FLOP formula of a fused attention: `products` matrix products; the query is argument
    `first`."""

    def flops(*arguments: Any) -> int:
        query, key = arguments[first], arguments[first + 1]
        return products * 2 * query.numel() * key.shape[-2]

    return flops


@cache
def product_flops() -> dict[Any, Callable[..., int]]:
    """FLOP formulas by operator, for the matrix multiplications that this torch has.

    Plain products use the formulas of torch's own counter.
    """
    aten = torch.ops.aten
    plain = (aten.mm, aten.bmm, aten.addmm, aten.baddbmm)
    return {
        **{operator: flop_registry[operator] for operator in plain},
        aten.addmm_: flop_registry[aten.addmm],
        aten.baddbmm_: flop_registry[aten.baddbmm],
        **{operator: shape_wrapper(flops) for operator, flops in flop_formulas().items()},
        **{
            getattr(aten, name): _attention(*places)
            for name, places in ATTENTION.items()
            if hasattr(aten, name)
        },
    }


@dataclass(frozen=True)
class Like:
    """Layout of a tensor without its data: shape, strides, dtype, device."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Like:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def made(self) -> Tensor:
        """A new tensor of this layout: random numbers, or zeros for integers."""
        reach = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if not self.dtype.is_floating_point:
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        numbers = torch.randn(max(reach, 1), device=self.device).to(self.dtype)
        return numbers.as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class MatrixProduct:
    """One recorded matrix product, which can be repeated on random numbers."""

    operator: Any
    """The dispatched torch operator."""
    arguments: tuple
    """Positional arguments; tensors are replaced by `Like`."""
    options: dict[str, Any]
    """Keyword arguments; tensors are replaced by `Like`."""
    flops: int
    """FLOPs of the product."""

    def made(self) -> Callable[[], Any]:
        """The same product of random numbers."""
        from torch.utils._pytree import tree_map_only

        arguments = tree_map_only(Like, Like.made, self.arguments)
        options = tree_map_only(Like, Like.made, self.options)
        return lambda: self.operator(*arguments, **options)


class Counts:
    """Counts of the operators that torch dispatched in a computation, with its backward pass.

    operators: their number; allocated: bytes of results with newly allocated storage; products:
    the matrix products in order. Memory that an operator allocates internally is not counted.
    """

    def __init__(self) -> None:
        self.operators, self.allocated = 0, 0
        self.products: list[MatrixProduct] = []

    @property
    def flops(self) -> int:
        """FLOPs of the matrix products; a multiplication with its addition counts two."""
        return sum(product.flops for product in self.products)

    def add(self, operator: Any, args: tuple, options: dict[str, Any], result: Any) -> None:
        """Count one call of an operator."""
        from torch.utils._pytree import tree_leaves, tree_map_only

        self.operators += 1
        held = {_memory(leaf) for leaf in tree_leaves((args, options)) if _is_tensor(leaf)}
        made = [leaf for leaf in tree_leaves(result) if _is_tensor(leaf)]
        fresh = {_memory(t): t.untyped_storage().nbytes() for t in made if _memory(t) not in held}
        self.allocated += sum(fresh.values())
        flops = product_flops().get(operator.overloadpacket)
        if flops is not None:
            arguments, named = tree_map_only(Tensor, Like.of, (args, options))
            self.products.append(MatrixProduct(operator, arguments, named, flops(*args)))


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_meta


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def counted(compute: Callable[[], Any]) -> Counts:
    """Run `compute` and count its operators."""
    from torch.utils._python_dispatch import TorchDispatchMode

    counts = Counts()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            options = kwargs or {}
            if func.overloadpacket not in product_flops():
                with self:  # torch decomposes nothing in inference mode
                    parts = func.decompose(*args, **options)
                if parts is not NotImplemented:
                    return parts
            result = func(*args, **options)
            counts.add(func, args, options, result)
            return result

    with Counting():
        compute()
    return counts


def alone(products: list[MatrixProduct]) -> Callable[[], None]:
    """A function that computes only the given products, in order, each on its own memory.

    Its time is a lower bound for the computation with this machine's library.
    """
    made = [product.made() for product in products]

    def run() -> None:
        with torch.no_grad():
            for product in made:
                product()

    return run


def dt_update_flops(
    batch: int,
    context: int,
    observation: int,
    action: int,
    width: int = 128,
    layers: int = 3,
    condition: int = 1,
) -> int:
    """FLOPs of the matrix products in an update of the Decision Transformer, by formula.

    B windows of K steps give L = 3K - 1 tokens each and pass through N blocks of width D. The last
    block computes queries and all later layers for the K states only. Multiply-adds of the forward
    pass of one window: 12 L D^2 + 2 L^2 D for a full block; 2 L D^2 + 10 K D^2 + 2 K L D for the
    last; K D A for the head; K D (S + A + 1) for the embeddings. The backward pass computes two
    products for each, one for the weight and one for the input. The embeddings need only one, as
    the data have no gradient.
    """
    tokens = 3 * context - 1
    full = 12 * tokens * width**2 + 2 * tokens**2 * width
    last = 2 * tokens * width**2 + 10 * context * width**2 + 2 * context * tokens * width
    head = context * width * action
    embeddings = context * width * (observation + action + condition)
    return 2 * batch * (3 * ((layers - 1) * full + last + head) + 2 * embeddings)
