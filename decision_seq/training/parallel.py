"""One model over several processes: whole in each (DDP), or sharded among them (FSDP2).

Sharding uses PyTorch's `fully_shard` directly: on a CPU, where it is tested, Accelerate would
silently use DDP instead. Checkpoints hold whole tensors by name, so each mode loads checkpoints of
the other.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from decision_seq.config import require
from decision_seq.policies import Policy
from decision_seq.sequences.windows import rank_slice
from decision_seq.training.config import TrainConfig


def distribute(policy: Policy, config: TrainConfig, accelerator: Accelerator) -> nn.Module:
    """The module that the loop calls, with rank 0's weights on every rank; changes the policy."""
    policy.to(accelerator.device)
    for tensor in policy.state_dict().values():
        _broadcast(tensor, accelerator)
    if config.checkpoint_activations:
        for block in repeated_blocks(policy):
            again = functools.partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = again
    if config.parallel == "fsdp":
        return _shard(policy, accelerator)
    model: Any = torch.compile(policy) if config.compile else policy
    if accelerator.num_processes == 1:
        return model
    with warnings.catch_warnings():
        # PyTorch deprecates `broadcast_buffers`; what replaces it sends the buffers once more.
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        return accelerator.prepare(model)


def repeated_blocks(policy: nn.Module) -> list[nn.Module]:
    """The layers of its module lists, which are sharded, and recomputed, one at a time."""
    lists = [module for module in policy.modules() if isinstance(module, nn.ModuleList)]
    return [block for modules in lists for block in modules]


def _shard(policy: Policy, accelerator: Accelerator) -> Policy:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    blocks = repeated_blocks(policy)
    require(
        bool(blocks), "config: train.parallel fsdp shards layer by layer; this policy has no layers"
    )
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    check_sharded(policy, accelerator.num_processes)
    return policy


def check_sharded(policy: nn.Module, world: int) -> None:
    """Raise RuntimeError unless every process holds only its own part of each parameter."""
    for name, weight in policy.named_parameters():
        most = -(-weight.shape[0] // world) * weight.shape[1:].numel()
        shard = _as_shard(weight)
        if shard is None or shard.to_local().numel() > most:
            raise RuntimeError(f"FSDP was asked for, but {name} is not sharded")


def last_backward(model: Any, last: bool) -> AbstractContextManager[Any]:
    """Context that exchanges gradients in the last micro-batch's backward pass only."""
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):  # FSDP2's
        model.set_requires_gradient_sync(last)
    return nullcontext()


def _as_shard(tensor: Tensor) -> Any:
    """The tensor itself if it is a DTensor, else None; importing DTensor takes most of a second."""
    return tensor if hasattr(tensor, "full_tensor") else None


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, on the CPU. Every rank must call it, in the same order."""
    shard = _as_shard(tensor)
    whole = tensor if shard is None else shard.full_tensor()
    return whole.detach().cpu().contiguous()


class Named(Protocol):
    """Protocol of objects with named tensors: a policy, or averages of its weights."""

    def state_dict(self) -> dict[str, Tensor]: ...


def full_weights(policy: Named) -> dict[str, Tensor]:
    """Every parameter and buffer by name, whole. Every rank must call it."""
    return {name: full(tensor) for name, tensor in policy.state_dict().items()}


def full_moments(optimizer: torch.optim.Optimizer, policy: Policy) -> dict[str, Tensor]:
    """The optimizer's tensors by names such as `exp_avg/NAME`, whole. Every rank must call it."""
    return {
        f"{key}/{name}": full(value)
        for name, weight in _trained(policy)
        for key, value in sorted(optimizer.state[weight].items())
    }


def fill_weights(policy: Named, whole: dict[str, Tensor], accelerator: Accelerator) -> None:
    """Fill every tensor from rank 0's `whole`; that of other ranks may be empty."""
    for name, tensor in policy.state_dict().items():
        _place(tensor, whole.get(name), accelerator)


def group_counts(optimizer: torch.optim.Optimizer) -> list[dict[str, int]]:
    """Counts that an optimizer stores in its parameter groups, such as LAMB's steps."""
    return [
        {key: value for key, value in group.items() if key == "step" and isinstance(value, int)}
        for group in optimizer.param_groups
    ]


def fill_moments(
    optimizer: torch.optim.Optimizer,
    policy: Policy,
    whole: dict[str, Tensor],
    counts: list[dict[str, int]],
    accelerator: Accelerator,
) -> None:
    """Load rank 0's tensors, named `KEY/NAME`, into the optimizer.

    whole: may be empty on other ranks. counts: those of each parameter group, from `group_counts`.
    """
    weights = dict(_trained(policy))
    states: dict[nn.Parameter, dict[str, Tensor]] = {weight: {} for weight in weights.values()}
    for saved, shape, dtype in _described(whole, accelerator):
        key, _, name = saved.partition("/")
        weight = weights[name]
        # A tensor of a weight's shape has the weight's device and sharding.
        like = weight.detach() if shape == weight.shape else torch.empty(())
        value = torch.zeros_like(like, dtype=dtype, memory_format=torch.preserve_format)
        value = value if shape == weight.shape else value.to(accelerator.device)
        _place(value, whole.get(saved), accelerator)
        states[weight][key] = value
    described = optimizer.state_dict()
    order = [weight for group in optimizer.param_groups for weight in group["params"]]
    described["state"] = {i: states[weight] for i, weight in enumerate(order) if states[weight]}
    for group, counted in zip(described["param_groups"], counts, strict=False):
        group.update(counted)
    optimizer.load_state_dict(described)


def full_rows(rows: dict[str, Tensor], total: int, accelerator: Accelerator) -> dict[str, Tensor]:
    """Gather every rank's rows of a state -> the rows of the global batch, on the CPU.

    Each rank's rows are added to zeros as integers, so no bit changes. Every rank must call it.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    whole = {}
    for name, value in sorted(rows.items()):
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        bits = torch.zeros(total, *value.shape[1:], dtype=kind, device=value.device)
        mine = rank_slice(np.arange(total), rank, world)
        bits[int(mine[0]) : int(mine[-1]) + 1] = value.contiguous().view(kind)
        if world > 1:
            torch.distributed.all_reduce(bits)
        whole[name] = bits.view(value.dtype).cpu()
    return whole


def spread_rows(
    whole: dict[str, Tensor], total: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Rank 0's state of the global batch -> this rank's rows. Every rank must call it."""
    mine = rank_slice(np.arange(total), accelerator.process_index, accelerator.num_processes)
    rows = {}
    for name, shape, dtype in _described(whole, accelerator):
        value = torch.empty(shape, dtype=dtype, device=accelerator.device)
        _place(value, whole.get(name), accelerator)
        rows[name] = value[int(mine[0]) : int(mine[-1]) + 1]
    return rows


def _described(
    whole: dict[str, Tensor], accelerator: Accelerator
) -> list[tuple[str, torch.Size, torch.dtype]]:
    """Names, shapes and types of rank 0's tensors. Every rank must call it."""
    listed = [[(name, value.shape, value.dtype) for name, value in sorted(whole.items())]]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(listed, 0)
    return listed[0]


def _trained(policy: Policy) -> Iterator[tuple[str, nn.Parameter]]:
    return ((n, weight) for n, weight in policy.named_parameters() if weight.requires_grad)


@torch.no_grad()
def _place(target: Tensor, source: Tensor | None, accelerator: Accelerator) -> None:
    """Copy rank 0's whole tensor into this rank's, which may be a shard."""
    whole = torch.empty(target.shape, dtype=target.dtype, device=accelerator.device)
    if source is not None:
        whole.copy_(source)
    shard = _as_shard(target)
    if shard is not None:
        from torch.distributed.tensor import distribute_tensor

        target.copy_(distribute_tensor(whole, shard.device_mesh, shard.placements))
        return
    _broadcast(whole, accelerator)
    target.copy_(whole)


def _broadcast(tensor: Tensor, accelerator: Accelerator) -> None:
    if accelerator.num_processes > 1:
        torch.distributed.broadcast(tensor, 0)


def digest(policy: Policy) -> str:
    """Digest of all weights, whole. Every rank must call it."""
    total = hashlib.sha256()
    for tensor in full_weights(policy).values():
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:14]
