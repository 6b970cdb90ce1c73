"""Launch of one or several processes: checks of the launcher and communication between ranks.

Ranks communicate through the launcher's key-value store and not through collectives. While one of
them collects data or rolls out environments, the others poll the store. Such work may take any
time, whereas a collective that waits longer than ten minutes ends an NCCL job.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
)

from decision_seq.config import require
from decision_seq.machine.memory import keep_freed, large_enough
from decision_seq.training import waiting
from decision_seq.training.config import TrainConfig
from decision_seq.types import UserError

_MEND = (
    "launch with `accelerate launch --multi_gpu --num_processes N -m decision_seq ..."
    " --processes N` (on CPUs with ACCELERATE_USE_CPU=true; its `--cpu` starts only one)"
)


def start_accelerator(config: TrainConfig, processes: int | None) -> Accelerator:
    """An Accelerator over all launched processes; UserError where they do not train together.

    On a CPU, `accelerate launch --cpu --num_processes N` starts a single process, a plain
    Accelerator under torchrun trains N separate copies, and Accelerate's FSDP and DeepSpeed become
    DDP, all without a warning. Each of these is an error here.
    """
    _check_launcher(config, processes)
    if os.environ.get("RANK", "0") != "0":  # the first process shows PyTorch's to developers
        warnings.simplefilter("ignore", FutureWarning)
    keep_freed()
    AcceleratorState._reset_state()  # an earlier run of this process may have been on a device
    # `training.update` and `training.parallel` handle precision and sharding, on all devices alike.
    # Buffers hold values fitted to the data, which are the same on all ranks from the start.
    handlers: list[Any] = [
        DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    ]
    limit = waiting.limit()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # no launcher ends the waiting
        handlers.append(InitProcessGroupKwargs(timeout=timedelta(seconds=limit)))
    try:
        with waiting.announced():
            accelerator = Accelerator(
                cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=handlers
            )
    except torch.distributed.DistError as error:
        raise OfOneRank(
            f"the other processes of this launch did not come in {limit:g} s; {waiting.whom()}"
        ) from error
    except ValueError as error:  # Accelerate's error for inconsistent variables
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"the launcher's variables do not fit together ({first}); {_MEND}"
        ) from error
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    world = accelerator.num_processes
    if world != launched or (processes is not None and processes != world):
        raise UserError(
            f"{processes or launched} processes were asked for, but {world} train together; {_MEND}"
        )
    shares = world * config.accumulation
    require(
        config.batch_size >= shares,
        f"config: train.batch_size {config.batch_size} does not fill {world} processes"
        f" times {config.accumulation} micro-batches",
    )
    require(
        config.parallel == "ddp" or world > 1,
        f"config: train.parallel fsdp shards over several processes, not over one; {_MEND}",
    )
    device = accelerator.device.type
    require(
        not config.cuda_graph or (device == "cuda" and world == 1),
        f"config: train.cuda_graph needs one process on CUDA, not {world} on {device}",
    )
    return accelerator


def _check_launcher(config: TrainConfig, processes: int | None) -> None:
    """Raise UserError where launcher settings would be ignored or started too few processes."""
    env = os.environ
    for key in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "TORCHELASTIC_MAX_RESTARTS"):
        value = env.get(key, "0")
        sound = value.isdecimal() and len(value) <= 9
        require(sound, f"the environment's {key} {value[:20]!r} is no number; unset it")
    if int(env.get("WORLD_SIZE", "1")) > 1:
        absent = [key for key in ("RANK", "MASTER_ADDR") if key not in env]
        require(not absent, f"WORLD_SIZE is set, but not {' and '.join(absent)}; {_MEND}")
        for key in ("RANK", "LOCAL_RANK"):  # else this process would wait for a rank that never is
            require(
                int(env.get(key, "0")) < int(env["WORLD_SIZE"]),
                f"{key} {env.get(key)} does not fit WORLD_SIZE {env['WORLD_SIZE']}; {_MEND}",
            )
    require(processes is None or processes >= 1, f"--processes {processes} must be at least 1")
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in env
    # Accelerate sets MASTER_ADDR only for several processes; here it started one without a rank.
    if processes is None and by_accelerate and "MASTER_ADDR" in env and "WORLD_SIZE" not in env:
        raise UserError(f"accelerate was asked for several processes but started one; {_MEND}")
    for key, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        require(
            env.get(key, "false").lower() != "true",
            f"the launcher asks for Accelerate's {name}, which on CPUs silently becomes DDP;"
            " launch plain processes (--multi_gpu) and shard with --train.parallel fsdp",
        )
    requested = env.get("ACCELERATE_MIXED_PRECISION", "no")
    require(
        requested in ("no", config.precision),
        f"the launcher asks for mixed precision {requested}, the config for {config.precision};"
        f" pass --train.precision {requested}, or launch with --mixed_precision no",
    )
    restarts = int(env.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    require(
        restarts == 0 or env.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        "torchrun keeps dead workers' addresses over a restart, which may then hang; set"
        " TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 and --rdzv-backend c10d, or --max-restarts 0",
    )
    parts = env.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    require(
        parts in ("1", str(config.accumulation)),
        f"the launcher asks for {parts} accumulation steps; pass --train.accumulation {parts}",
    )


_TOO_LARGE = (
    "this model and batch: lower train.batch_size, cut it by train.accumulation, or take a smaller"
    " policy"
)
# Messages of gloo for a lost connection; it has no exception type for it.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting")


@contextmanager
def watched() -> Iterator[None]:
    """Context that raises UserError when memory runs out or another process of the launch ends."""
    try:
        with large_enough(_TOO_LARGE, OfOneRank):
            yield
    except RuntimeError as error:
        gone = any(word in str(error) for word in _GONE)
        if not gone and not isinstance(error, torch.distributed.DistError):
            raise
        raise UserError(
            "another process of this launch has ended; its own message, if any, gives the reason."
            " Go on from the last checkpoint, where there is one, with --resume"
        ) from error


class OfOneRank(UserError):
    """Error that the other ranks do not report, such as exhausted memory on one rank."""


class Ranks:
    """Communication between the processes of a launch, as JSON. Every rank calls every method."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self._calls = 0
        if self.world > 1:
            from torch.distributed import PrefixStore
            from torch.distributed.distributed_c10d import _get_default_store

            # The store may outlive a restart; the token keeps stale keys apart.
            token = broadcast_object_list([uuid.uuid4().hex])[0]
            self._store = PrefixStore(f"decision_seq/{token}", _get_default_store())

    def gather(self, value: Any) -> list[Any]:
        """All ranks' values, in rank order. If one is a UserError, it is raised on all ranks."""
        if self.world == 1:
            return [_value(_wrap(value))]
        self._calls += 1
        keys = [f"{self._calls}/{rank}" for rank in range(self.world)]
        self._store.set(keys[self.rank], json.dumps(_wrap(value)))
        received = [json.loads(self._wait(key)) for key in keys]
        if any("error" in item for item in received):
            self._await_others()
        return [_value(item) for item in received]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """The return value of `make` on the main process; a UserError is raised on all ranks."""
        if self.world == 1:
            return make()
        self._calls += 1
        key = f"{self._calls}/main"
        if not self.is_main:
            received = json.loads(self._wait(key))
            if "error" in received:
                self._await_others()
            return _value(received)
        try:
            made = make()
        except Exception as error:
            self._store.set(key, json.dumps(_wrap(_for_others(error, self.rank))))
            self._await_others()
            raise
        self._store.set(key, json.dumps(_wrap(made)))
        return made

    def together(self, act: Callable[[], Any]) -> list[Any]:
        """The return values of `act` on all ranks; UserError on all where it fails on any.

        Other exceptions are raised with their traceback on the rank where they happened.
        """
        try:
            value = act()
        except Exception as error:
            reported = _for_others(error, self.rank)
            if reported is not error:
                with suppress(UserError):
                    self.gather(reported)
                raise
            value = reported
        return self.gather(value)

    def _await_others(self) -> None:
        """On an error that ends all ranks, let the main process, which may host the store, end
        last."""
        self._store.set(f"{self._calls}/left/{self.rank}", "")
        deadline = time.monotonic() + 10
        left = [f"{self._calls}/left/{rank}" for rank in range(self.world)]
        while self.is_main and not self._store.check(left) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _wait(self, key: str) -> bytes:
        pause = 0.001
        while not self._store.check([key]):
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return self._store.get(key)


def _for_others(error: Exception, rank: int) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(f"rank {rank} failed: {type(error).__name__}: {error}")


def _wrap(value: Any) -> dict[str, Any]:
    return {"error": str(value)} if isinstance(value, UserError) else {"value": value}


def _value(wrapped: dict[str, Any]) -> Any:
    if "error" in wrapped:
        raise UserError(wrapped["error"])
    return wrapped["value"]
