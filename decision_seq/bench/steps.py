"""Whole training steps, from stored episodes to changed weights, beside what the original does.

The peer is transformers' DecisionTransformerModel fed by a loop over windows, as the original's
trainer feeds its model (kzl/decision-transformer, gym/experiment.py: for every window an episode is
drawn, cut, padded on the left and its rewards summed anew).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from decision_seq.bench.data import ACTION, CONTEXT, LENGTH, OBSERVATION, write_random_store
from decision_seq.bench.training import BATCH, CLIP, adamw, peer_model, prepare
from decision_seq.data.conditioning import ReturnToGo, label
from decision_seq.data.sampler import WindowGatherer, WindowIndex
from decision_seq.data.store import EpisodeStore
from decision_seq.policies import DecisionTransformerConfig
from decision_seq.report import table
from decision_seq.train import TrainConfig, masked_mean
from decision_seq.train.graph import GraphedUpdate
from decision_seq.train.parallel import distribute
from decision_seq.train.source import DeviceSource, HostSource
from decision_seq.train.update import Update
from decision_seq.types import Episode, Reporter, Spec

EPISODES, SCALE, WARMUP_ROUNDS = 200, 1000.0, 2
PEER = "transformers, loop"
Step = Callable[[int], Any]


def bench_steps(
    rounds: int, threads: int | None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Updates a second of the paper's model (3 layers, 128 wide, K 20, batch 64, dropout 0.1).

    Rounds are interleaved: every entrant takes its turn in each. On a CUDA device also in bf16,
    from data on the device, and as one CUDA graph.
    """
    prepare(rounds, threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    on_cuda = accelerator.device.type == "cuda"
    turn = 50 if on_cuda else 1  # updates in a turn: long enough to be timed
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        path = Path(folder) / "store"
        write_random_store(path, EPISODES, Reporter())
        entrants = make_entrants(EpisodeStore.open(path), accelerator)
        seconds: dict[str, list[float]] = {name: [] for name in entrants}
        with (reporter or Reporter()).bar("bench", "round", WARMUP_ROUNDS + rounds) as bar:
            for number in range(WARMUP_ROUNDS + rounds):
                for name, step in entrants.items():
                    took = _timed(step, number * turn, turn, on_cuda)
                    if number >= WARMUP_ROUNDS:
                        seconds[name].append(took / turn)
                bar.update()
    base = np.array(seconds[PEER])
    device = torch.cuda.get_device_name() if on_cuda else torch.backends.cpu.get_cpu_capability()
    return {
        "what": f"training steps, batch {BATCH}, K {CONTEXT}, 3 layers, 128 wide, dropout 0.1",
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": torch.__version__,
        "rows": [
            {
                "name": name,
                "steps_per_second": float(1 / np.median(took)),
                "median_ms": float(np.median(took) * 1e3),
                "speed": float(np.median(base / np.array(took))),
            }
            for name, took in seconds.items()
        ],
    }


def steps_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    shown = {"steps_per_second": ".1f", "median_ms": ".2f", "speed": ".2f"}
    rows = [
        [row["name"], *(format(row[key], form) for key, form in shown.items())]
        for row in result["rows"]
    ]
    about = (
        f"{result['what']}; {result['rounds']} interleaved rounds, {result['threads']} threads,"
        f" {result['device']}, torch {result['torch']}"
    )
    return f"{about}\n\n{table(['', 'steps/s', 'median ms', 'speed'], rows)}"


def make_entrants(store: EpisodeStore, accelerator: Accelerator) -> dict[str, Step]:
    """Every side by name: called with a step's number, it makes that step."""
    sides: dict[str, Step] = {PEER: _peer(store, accelerator.device)}
    sides["decision_seq fp32"] = _ours(store, accelerator, TrainConfig())
    if accelerator.device.type == "cuda":
        for precision in ("fp32", "bf16"):
            plain = TrainConfig(precision=precision)
            sides[f"decision_seq {precision}"] = _ours(store, accelerator, plain)
            resident = replace(plain, data_on_device=True)
            sides[f"decision_seq {precision}, data on device"] = _ours(store, accelerator, resident)
            graph = replace(plain, cuda_graph=True)
            sides[f"decision_seq {precision}, CUDA graph"] = _ours(store, accelerator, graph)
    return sides


def _timed(step: Step, first: int, count: int, on_cuda: bool) -> float:
    if on_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for number in range(first, first + count):
        step(number)
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _ours(store: EpisodeStore, accelerator: Accelerator, config: TrainConfig) -> Step:
    torch.manual_seed(0)
    policy = DecisionTransformerConfig().build(
        Spec((OBSERVATION,), ACTION, "continuous", 1, LENGTH)
    )
    conditions = label(store, ReturnToGo(SCALE))
    policy.fit(store, conditions)
    model = distribute(policy, config, accelerator)
    gatherer = WindowGatherer(store, conditions, CONTEXT, LENGTH)
    resident = config.data_on_device or config.cuda_graph
    return (GraphedUpdate if config.cuda_graph else Update)(
        config,
        0,
        policy,
        model,
        adamw(policy),
        WindowIndex(store.offsets),
        (DeviceSource if resident else HostSource)(gatherer, accelerator.device),
        accelerator,
    )


def _peer(store: EpisodeStore, device: torch.device) -> Step:
    torch.manual_seed(0)
    model = peer_model(OBSERVATION, ACTION, LENGTH).to(device).train()
    optimizer = adamw(model)
    episodes = list(store.episodes())
    rng = np.random.default_rng(0)

    def step(number: int) -> None:
        columns = loop_batch(episodes, store.observation_statistics, rng)
        states, actions, returns, timesteps, mask = (
            torch.from_numpy(column).to(device) for column in columns
        )
        predicted = model(
            states=states,
            actions=actions,
            returns_to_go=returns,
            timesteps=timesteps,
            attention_mask=mask,
        ).action_preds
        optimizer.zero_grad()
        masked_mean((predicted - actions).square().mean(-1), mask).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def loop_batch(
    episodes: list[Episode],
    statistics: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """A batch made window by window -> states, actions, returns-to-go, timesteps, mask.

    Each [BATCH, CONTEXT, ...], padded on the left.
    """
    mean, std = statistics
    lengths = np.array([len(episode) for episode in episodes])
    windows = []
    for chosen in rng.choice(len(episodes), BATCH, p=lengths / lengths.sum()):
        episode = episodes[chosen]
        start = int(rng.integers(len(episode)))
        end = min(start + CONTEXT, len(episode))
        pad = CONTEXT - (end - start)
        to_go = np.cumsum(episode.rewards[start:][::-1])[::-1][: end - start, None]
        states = np.concatenate([np.zeros((pad, OBSERVATION)), episode.observations[start:end]])
        windows.append(
            (
                ((states - mean) / std).astype(np.float32),
                np.concatenate([np.full((pad, ACTION), -10.0), episode.actions[start:end]]).astype(
                    np.float32
                ),
                np.concatenate([np.zeros((pad, 1)), to_go / SCALE]).astype(np.float32),
                np.concatenate([np.zeros(pad, np.int64), np.arange(start, end)]),
                np.concatenate([np.zeros(pad, np.int64), np.ones(end - start, np.int64)]),
            )
        )
    return [np.stack(column) for column in zip(*windows, strict=True)]
