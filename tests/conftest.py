"""Shared fixtures: every test writes its own small files, in D4RL's real layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from decision_seq import checkpoint
from decision_seq.checkpoint import DataFacts
from decision_seq.config import plain, to_tree
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.datasets.store.source_files import sha256
from decision_seq.evaluation.context import Context, StepBuffer
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, PolicyConfig
from decision_seq.sequences.conditioning import Conditioning, ReturnToGo, label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Batch, Episode, Reporter, Spec
from tests.waiting import LIMIT

# How long an example takes says nothing: the machine may be busy.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Files of at least half a minute, the longest first: one of them begun last would run alone.
LONGEST = [
    *("test_cluster", "test_distributed", "test_bundled", "test_trainer", "test_contract"),
    *("test_policy", "test_sweep", "test_onnx_file", "test_extending", "test_train"),
    *("test_small_files", "test_topology", "test_rollout", "test_faults", "test_cloning"),
    *("test_action_units", "test_cli"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


# Hopper's sizes, so that policies can be rolled out in the real environment.
OBSERVATION, ACTION = 11, 3


class Lines(Reporter):
    """Reporter that records its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def seal(path: Path) -> Path:
    """Renew a checkpoint's checksums after its files were edited, as a stranger could."""
    state = json.loads((path / checkpoint.STATE).read_text())
    for name in state["sha256"]:
        if (path / name).is_file():
            state["sha256"][name] = sha256(path / name)
    (path / checkpoint.STATE).write_text(json.dumps(state))
    return path


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Separate store folder and home for every test."""
    root = tmp_path / "stores"
    monkeypatch.setenv("DECISION_SEQ_DATA", str(root))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("D4RL_DATASET_DIR", "MINARI_DATASETS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DECISION_SEQ_OFFLINE", "1")  # tests that fetch, fetch from loopback
    # A busy machine is not an absent host.
    monkeypatch.setattr("decision_seq.datasets.fetching.download.CONNECT_SECONDS", LIMIT)
    monkeypatch.setattr("decision_seq.datasets.fetching.download.STALL_SECONDS", LIMIT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what is compared to the bit runs on the CPU
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        assert name not in os.environ
    return root


def lived(spec: Spec, context_length: int, episode: Episode, labels: np.ndarray) -> Iterator[Batch]:
    """Contexts of every step of an episode in row 1 of 2; row 0 is reset at every step."""
    (size,), cpu = spec.observation_shape, torch.device("cpu")
    context, buffer = Context(2, context_length, spec, size), StepBuffer(2, spec, cpu)
    actions = torch.zeros_like(context.batch().actions[:, 0])
    for t in range(len(episode)):
        buffer.observations[:] = episode.observations[t]
        buffer.conditions[:] = labels[t]
        buffer.rewards[:] = episode.rewards[t - 1] if t else 0
        buffer.fresh[:] = [1, t == 0]
        context.advance(actions, *buffer.on(cpu))
        yield context.batch()
        actions[:] = torch.tensor(episode.actions[t])


def make_episode(
    length: int, seed: int, terminated: bool = True, final: bool = True, sizes: Any = None
) -> Episode:
    observation, action = sizes or (OBSERVATION, ACTION)
    rng = np.random.default_rng([7, seed])
    return Episode(
        rng.normal(2.0, 3.0, (length + final, observation)).astype(np.float32),
        rng.uniform(-1, 1, (length, action)).astype(np.float32),
        rng.normal(3.0, 1.0, length).astype(np.float32),
        terminated,
        not terminated,
    )


def write_store(folder: Path, lengths: Sequence[int], name: str = "toy") -> EpisodeStore:
    with StoreWriter(folder / name) as writer:
        for index, length in enumerate(lengths):
            writer.append(make_episode(length, index, terminated=index % 2 == 0))
        return writer.finish(
            name,
            {"kind": "test", "description": f"test store {name}"},
            env_id="Hopper-v4",
            family="hopper",
            max_episode_steps=1000,
            transitions_in=sum(lengths),
            has_timeouts=True,
        )


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., EpisodeStore]:
    def make(lengths: Sequence[int] = (30, 7, 51, 1, 24), name: str = "toy") -> EpisodeStore:
        return write_store(tmp_path / "made", lengths, name)

    return make


def make_frames(length: int, seed: int, size: tuple[int, int] = (10, 12)) -> Episode:
    """An episode of single frames: a bright spot on a nearly constant dark background."""
    rng = np.random.default_rng([8, seed])
    frames = np.full((length, *size), 3 + seed, np.uint8)
    spots = rng.integers(0, size, (length, 2))
    frames[np.arange(length), spots[:, 0], spots[:, 1]] = rng.integers(100, 256, length)
    return Episode(
        frames,
        rng.integers(0, 6, length),
        rng.integers(-1, 2, length).astype(np.float64),
        seed % 2 == 0,
        False,
    )


@pytest.fixture
def make_frame_store(tmp_path: Path) -> Callable[..., EpisodeStore]:
    def make(
        lengths: Sequence[int] = (37, 1, 16, 2, 64, 5),
        name: str = "toy-frames",
        size: tuple[int, int] = (10, 12),
        **facts: Any,
    ) -> EpisodeStore:
        with StoreWriter(tmp_path / "made" / name, stack=4) as writer:
            for index, length in enumerate(lengths):
                writer.append(make_frames(length, index, size))
            known = {"env_id": None, "family": None, "max_episode_steps": 1000}
            return writer.finish(
                name,
                {"kind": "test", "description": f"test frames {name}"},
                transitions_in=sum(lengths),
                has_timeouts=False,
                **{**known, "choices": 6, "clipped": True, **facts},
            )

    return make


@pytest.fixture
def collect_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections are made in this process; the start of another takes longer than they do."""

    @contextmanager
    def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
        made = ThreadPoolExecutor(1)  # the environments of a process serve one chunk at a time
        try:
            yield made
        finally:
            made.shutdown(cancel_futures=True)

    monkeypatch.setattr("decision_seq.datasets.collected.collection.process_pool", pool)


@pytest.fixture
def store(make_store: Callable[..., EpisodeStore]) -> EpisodeStore:
    return make_store()


@pytest.fixture
def gatherer(store: EpisodeStore) -> WindowGatherer:
    return WindowGatherer(store, label(store, ReturnToGo(10.0)), 8, 1000)


@pytest.fixture
def spec() -> Spec:
    return Spec((OBSERVATION,), ACTION, "continuous", 1, 1000)


@pytest.fixture
def write_d4rl(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes D4RL's HDF5 layout; `drop` and `change` make oddities of real files."""
    import h5py

    def write(
        lengths: Sequence[int] = (40, 25, 60),
        name: str = "hopper_medium-v2.hdf5",
        drop: Sequence[str] = (),
        change: dict[str, Callable[[np.ndarray], Any]] | None = None,
        tail: int = 0,
        sizes: tuple[int, int] | None = None,
    ) -> Path:
        """tail: transitions without an end after the episodes; sizes: Hopper's by default."""
        episodes = [
            make_episode(n, i, terminated=i % 2 == 0, sizes=sizes) for i, n in enumerate(lengths)
        ]
        if tail:
            episodes.append(make_episode(tail, 99, sizes=sizes))
        ends = np.concatenate([np.arange(len(e)) == len(e) - 1 for e in episodes])
        kinds = np.concatenate([np.full(len(e), e.terminated) for e in episodes])
        if tail:
            ends[-1] = False
        columns = {
            "observations": np.concatenate([e.observations[:-1] for e in episodes]),
            "next_observations": np.concatenate([e.observations[1:] for e in episodes]),
            "actions": np.concatenate([e.actions for e in episodes]),
            "rewards": np.concatenate([e.rewards for e in episodes]),
            "terminals": ends & kinds,
            "timeouts": ends & ~kinds,
        }
        for key, function in (change or {}).items():
            columns[key] = function(columns[key])
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, column in columns.items():
                if key not in drop:
                    file[key] = column
        return path

    return write


FACTS = DataFacts(
    "hopper-medium",
    "a test",
    "Hopper-v4",
    "hopper",
    (3600.0, 1800.0),
    (-20.272305, 3234.3),
    tuple(float(10 * percent) for percent in range(101)),
)
K = 5


@pytest.fixture
def make_checkpoint(tmp_path: Path, store: EpisodeStore, spec: Spec) -> Callable[..., Path]:
    """Function that makes a run's only checkpoint, of a policy with perturbed weights."""

    def make(
        config: PolicyConfig | None = None,
        conditioning: Conditioning | None = None,
        spec: Spec = spec,
        name: str = "run",
    ) -> Path:
        config = config or DecisionTransformerConfig(K, GPTConfig(2, 2, 16))
        conditioning = conditioning or ReturnToGo(1000.0)
        torch.manual_seed(0)
        policy = config.build(spec)
        policy.fit(store, label(store, conditioning))
        with torch.no_grad():
            for weight in policy.parameters():
                weight += 0.15 * torch.randn_like(weight)
        described = {
            "policy": {"name": config.get_choice_name(type(config)), **to_tree(config)},
            "conditioning": {
                "name": conditioning.get_choice_name(type(conditioning)),
                **to_tree(conditioning),
            },
            "spec": plain(spec),
            "data": plain(FACTS),
        }
        state: dict[str, Any] = {"topology": {}, "scaler": {}}
        folder = tmp_path / name / "checkpoints"
        return checkpoint.save(
            folder, 7, checkpoint.Tensors(policy.state_dict(), {}), described, state
        )

    return make
