"""Benchmark of whole training steps, from stored episodes to updated weights.

The peer is transformers' DecisionTransformerModel. Its batches come from a loop over windows, as in
the original's trainer (kzl/decision-transformer, gym/experiment.py): for every window an episode is
drawn, cut and padded on the left, and its rewards are summed again.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from decision_seq.bench.frame_store import write_moving_squares
from decision_seq.bench.sampling import ACTION, CONTEXT, LENGTH, OBSERVATION, write_random_store
from decision_seq.bench.timing import MEDIANS, interleaved, machine, prepare, rows_text
from decision_seq.bench.training import BATCH, CLIP, adamw, peer_model
from decision_seq.config import load
from decision_seq.datasets.store import EpisodeStore
from decision_seq.policies import DecisionTransformerConfig, PolicyConfig
from decision_seq.recipes import recipe_trees
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.device import DeviceSource, HostSource
from decision_seq.sequences.windows import Pool, RandomWindows, WindowGatherer
from decision_seq.training import TrainConfig, masked_mean
from decision_seq.training.graph import GraphedUpdate
from decision_seq.training.groups import make_optimizer
from decision_seq.training.parallel import distribute
from decision_seq.training.update import Update
from decision_seq.types import Episode, Reporter, Spec

EPISODES, SCALE, WARMUP_ROUNDS = 200, 1000.0, 2
FRAME_EPISODES, FRAME_RECIPE = 20, "atari/dt"
PEER = "transformers, loop"
Step = Callable[[int], float]  # step number -> makes that step, returns seconds spent on its data


def bench_steps(
    rounds: int, threads: int | None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Updates per second of the paper's model (3 layers, width 128, K 20, batch 64, dropout 0.1).

    On a CUDA device also in bf16, with the data on the device, and as one CUDA graph.
    """
    prepare(rounds, threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    turn = 50 if accelerator.device.type == "cuda" else 1  # updates; one on a GPU is too short
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        path = Path(folder) / "store"
        write_random_store(path, EPISODES, Reporter())
        entrants = make_entrants(EpisodeStore.open(path), accelerator)
        what = f"training steps, batch {BATCH}, K {CONTEXT}, 3 layers, 128 wide, dropout 0.1"
        return {"what": what, **_measured(entrants, rounds, turn, accelerator, reporter)}


def bench_frame_steps(
    rounds: int,
    threads: int | None,
    reporter: Reporter | None = None,
    episodes: int = FRAME_EPISODES,
) -> dict[str, Any]:
    """Updates per second of the Atari recipe, on a store of frames with moving squares.

    In fp32 and bf16; on a CUDA device also with the data on the device.
    """
    prepare(rounds, threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    on_cuda = accelerator.device.type == "cuda"
    tree = recipe_trees(FRAME_RECIPE)[0]
    policy = load(PolicyConfig, tree["policy"])
    with tempfile.TemporaryDirectory(prefix="decision-seq-bench-") as folder:
        store = write_moving_squares(Path(folder) / "store", episodes, Reporter())
        entrants = {}
        for resident in (False, True) if on_cuda else (False,):
            for precision in ("fp32", "bf16"):
                given = {"precision": precision, "data_on_device": resident}
                config = load(TrainConfig, tree["train"], given)
                name = f"decision_seq {precision}{', data on device' if resident else ''}"
                entrants[name] = make_step(store, accelerator, config, policy)
        what = f"training steps of {FRAME_RECIPE}, batch {config.batch_size}, K"
        measured = _measured(entrants, rounds, 1, accelerator, reporter)
        return {"what": f"{what} {policy.context_length}, stacks of 4 frames", **measured}


def _measured(
    entrants: dict[str, Step],
    rounds: int,
    turn: int,
    accelerator: Accelerator,
    reporter: Reporter | None,
) -> dict[str, Any]:
    facts = machine(accelerator.device)

    def stepping(step: Step) -> Callable[[], float]:
        numbers = itertools.count()
        return lambda: step(next(numbers))

    calls = {name: stepping(step) for name, step in entrants.items()}
    timed = interleaved(calls, rounds, WARMUP_ROUNDS, reporter, accelerator.device, turn)
    base = timed[next(iter(timed))]
    rows = []
    for name, times in timed.items():
        row: dict[str, Any] = {"name": name, **times.row(base)}
        waited = np.mean(times.returned, 1)  # [rounds], seconds spent on data
        row["data_share"] = float(np.median(waited / times.seconds))
        rows.append({**row, "steps_per_second": 1e3 / row["median_ms"]})
    return {"machine": facts, "rounds": rounds, "rows": rows}


def steps_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    columns = {
        "steps_per_second": ("steps/s", ",.1f"),
        **MEDIANS,
        "data_share": ("data", ".1%"),
    }
    about = (
        f"{result['what']}; {result['rounds']} interleaved rounds; speed: the first row's time by"
        " this one's; data: share of a step that is spent on gathering its windows"
    )
    return f"{about}\n\n{rows_text(result['rows'], columns)}"


def make_entrants(store: EpisodeStore, accelerator: Accelerator) -> dict[str, Step]:
    """The compared training steps by name."""
    sides: dict[str, Step] = {PEER: _peer(store, accelerator.device)}
    sides["decision_seq fp32"] = make_step(store, accelerator, TrainConfig())
    if accelerator.device.type == "cuda":
        for precision in ("fp32", "bf16"):
            plain = TrainConfig(precision=precision)
            sides[f"decision_seq {precision}"] = make_step(store, accelerator, plain)
            resident = replace(plain, data_on_device=True)
            sides[f"decision_seq {precision}, data on device"] = make_step(
                store, accelerator, resident
            )
            graph = replace(plain, cuda_graph=True)
            sides[f"decision_seq {precision}, CUDA graph"] = make_step(store, accelerator, graph)
    return sides


def make_step(
    store: EpisodeStore,
    accelerator: Accelerator,
    config: TrainConfig,
    policy_config: PolicyConfig | None = None,
) -> Step:
    """A step as `train` makes it. policy_config: None for the paper's."""
    update = make_update(store, accelerator, config, policy_config or DecisionTransformerConfig())
    return lambda number: update(number).data_seconds


def make_update(
    store: EpisodeStore, accelerator: Accelerator, config: TrainConfig, policy_config: PolicyConfig
) -> Update:
    """The update function of `train`, for an untrained policy on a store."""
    torch.manual_seed(0)
    discrete = store.choices is not None
    size = store.choices or store.columns["actions"].shape[1]
    kind: Literal["discrete", "continuous"] = "discrete" if discrete else "continuous"
    policy = policy_config.build(Spec(store.observation_shape, size, kind, 1, LENGTH))
    conditions = label(store, ReturnToGo(SCALE))
    policy.fit(store, conditions)
    policy.to(accelerator.device)
    model = distribute(policy, config, accelerator)
    gatherer = WindowGatherer(store, conditions, policy_config.context_length, LENGTH)
    resident = config.data_on_device or config.cuda_graph
    return (GraphedUpdate if config.cuda_graph else Update)(
        config,
        0,
        policy,
        model,
        make_optimizer(policy, config),
        RandomWindows(Pool(store.offsets, policy_config.context_length), 0, config.batch_size),
        (DeviceSource if resident else HostSource)(gatherer, accelerator.device),
        accelerator,
    )


def _peer(store: EpisodeStore, device: torch.device) -> Step:
    torch.manual_seed(0)
    model = peer_model(OBSERVATION, ACTION, LENGTH).to(device).train()
    optimizer = adamw(model)
    episodes = list(store.episodes())
    rng = np.random.default_rng(0)

    def step(number: int) -> float:
        started = time.perf_counter()
        columns = loop_batch(episodes, store.observation_statistics, rng)
        states, actions, returns, timesteps, mask = (
            torch.from_numpy(column).to(device) for column in columns
        )
        waited = time.perf_counter() - started
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
        return waited

    return step


def loop_batch(
    episodes: list[Episode],
    statistics: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Build a batch window by window -> states, actions, returns-to-go, timesteps, mask.

    Each is [BATCH, CONTEXT, ...], padded on the left.
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
