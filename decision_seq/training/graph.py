"""The whole update as one CUDA graph, because small models spend most time on kernel launches.

All data stay on the device: windows are gathered there from resident columns, the learning rate is
a tensor, and only the ids of the windows are copied, into a fixed buffer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from decision_seq.config import require
from decision_seq.sequences.device import DeviceSource
from decision_seq.training.groups import LR_SCALE
from decision_seq.training.update import Update, UpdateResult, masked_mean, update_seeds

WARMUP = 3  # runs before the capture, in which libraries choose kernels and allocate


class GraphedUpdate(Update):
    """The same update as `Update`, captured at the first call and replayed at every call.

    For one process without accumulation; see `TrainConfig.cuda_graph`.
    """

    source: DeviceSource

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ids = torch.zeros(self.config.batch_size, dtype=torch.int64, device=self.device)
        self.rate = torch.zeros((), device=self.device)
        require(
            not self.sampler.consecutive or self.policy.memory == "window",
            "config: train.cuda_graph cannot carry state; leave it out, or take windows any",
        )
        drawing = [label for label, loss in self.policy.auxiliary.items() if loss.draws]
        require(
            not drawing,
            f"config: train.cuda_graph cannot draw for the auxiliary loss {', '.join(drawing)}",
        )
        for group in self.optimizer.param_groups:
            require(
                group.get(LR_SCALE, 1.0) == 1.0, "config: train.cuda_graph has one learning rate"
            )
            group["lr"], group["capturable"] = self.rate, self.device.type == "cuda"
        self.generators = (torch.Generator(self.device), torch.Generator(self.device))
        self.losses: dict[str, Tensor] = {}
        self.metrics: dict[str, Tensor] = {}
        self.norm = torch.zeros((), device=self.device)
        self._replay: Callable[[], None] | None = None

    def __call__(self, step: int, signalled: bool = False) -> UpdateResult:
        started = time.perf_counter()
        self.ids.copy_(torch.as_tensor(self.parts(step)[0]), non_blocking=True)
        data_seconds = time.perf_counter() - started
        rate = self.config.rate(step)
        self.rate.fill_(rate)
        self.model.train()
        if self._replay is None:
            self._replay = self._record()
        self._seed(step)
        self._replay()
        return UpdateResult(
            dict(self.losses), dict(self.metrics), self.norm, rate, data_seconds, signalled
        )

    def _seed(self, step: int) -> None:
        """Seed the generators; the graph reads their seeds when it is replayed."""
        torch_seed, policy_seed = update_seeds(self.seed, step, 0, 0)
        torch.manual_seed(torch_seed)
        for generator in self.generators:
            generator.manual_seed(policy_seed)

    def _body(self) -> None:
        """The captured code, from ids to weights. It reads no number on the host."""
        batch = self.source.windows(self.ids)
        weights = self.policy.weights(batch, self.generators[0])
        learnt = self._forward(batch, self.generators[1])
        values = learnt.losses
        shares = {name: masked_mean(values[name], weights[name]) for name in sorted(weights)}
        self.total(shares).backward()
        self.norm = self._apply()
        self.losses = {name: share.detach() for name, share in shares.items()}
        metrics = learnt.metrics or {}
        self.metrics = {n: masked_mean(v.detach(), batch.mask) for n, v in metrics.items()}

    def _record(self) -> Callable[[], None]:
        """Run the body a few times, restore the weights, and capture it -> the replay function."""
        held = self.snapshot()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self.optimizer.zero_grad()
                self._body()
        torch.cuda.current_stream().wait_stream(stream)
        self.restore(held)
        self.optimizer.zero_grad()  # so that the graph allocates the gradients and owns them
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._body()
        return graph.replay

    def snapshot(self) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
        """Copies of the weights and of the optimiser's moments."""
        moments = copy.deepcopy(self.optimizer.state_dict()["state"])
        return copy.deepcopy(self.policy.state_dict()), moments

    @torch.no_grad()
    def restore(self, held: tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]) -> None:
        """Copy a snapshot back in place, because the graph refers to these tensors."""
        weights, moments = held
        for name, tensor in self.policy.state_dict().items():
            tensor.copy_(weights[name])
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                former = moments.get(index)
                value.copy_(former[key]) if former else value.zero_()
