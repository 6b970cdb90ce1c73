"""Behaviour policies and the data they collect, at any size, the same bytes for the same seed.

D4RL's v2 gym files carry the SAC policy that collected them (`metadata/policy`): two ReLU layers
and a tanh-squashed diagonal Gaussian. The bundled policies have the same layers, so one class reads
both and one collector grows either.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from decision_seq.data.store import EpisodeStore
from decision_seq.data.writer import StoreWriter, sha256
from decision_seq.envs import Environments, facts_by_name
from decision_seq.types import Episode, Reporter, UserError

# A wave is the episodes stepped together. Its size is fixed, because the last bits of a matrix
# product depend on the number of rows: an episode's data are a function of (seed, index) alone.
WAVE = 32


class Actor(Protocol):
    """Chooses actions for the rows of a wave; the noise is drawn by `collect`."""

    @property
    def description(self) -> str: ...

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Observation and action size it was made for; None for any."""

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """observations [N, S], standard normal noise [N, A] -> actions [N, A] in [-1, 1]."""
        ...


def _tanh(actions: np.ndarray) -> np.ndarray:
    return np.tanh(actions)


def _clip(actions: np.ndarray) -> np.ndarray:
    return np.clip(actions, -1, 1)


# How a Gaussian becomes an action in [-1, 1]: as SAC does, and as PPO's environments do.
SQUASHES = {"tanh": _tanh, "clip": _clip}


@dataclass(frozen=True)
class GaussianPolicy:
    """squash(mean(s) + std(s) * noise), mean and std from two hidden ReLU layers.

    weights: layer -> ([in, out], [out]); squash: a key of SQUASHES.
    """

    weights: dict[str, tuple[np.ndarray, np.ndarray]]
    squash: str
    description: str

    LAYERS = ("fc0", "fc1", "last_fc", "last_fc_log_std")

    @classmethod
    def load(cls, path: Path) -> GaussianPolicy:
        """From a D4RL v2 HDF5 file or a .safetensors actor; UserError when it holds none."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"policy file {path} does not exist")
        read = _safetensors_arrays if path.suffix == ".safetensors" else _hdf5_arrays
        arrays, squash = read(path, cls.LAYERS)
        if squash not in SQUASHES:
            raise UserError(f"policy file {path}: unknown squash {squash!r}")
        weights = {}
        chain = {"fc0": "fc1", "fc1": "last_fc"}
        for layer, (weight, bias) in arrays.items():
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise UserError(
                    f"policy file {path}: {layer} has shapes {weight.shape} and {bias.shape}"
                )
            follows = arrays[chain.get(layer, layer)][0]
            if layer in chain and follows.shape[1:] != weight.shape[:1]:
                raise UserError(f"policy file {path}: the layers after {layer} do not fit it")
            weights[layer] = (np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32))
        if weights["last_fc"][0].shape != weights["last_fc_log_std"][0].shape:
            raise UserError(f"policy file {path}: last_fc and last_fc_log_std differ in shape")
        return cls(weights, squash, f"policy {path.name}, sha256 {sha256(path)[:12]}")

    @property
    def sizes(self) -> tuple[int, int]:
        """Observation and action size."""
        return self.weights["fc0"][0].shape[0], self.weights["last_fc"][0].shape[1]

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        hidden = observations.astype(np.float32)
        for layer in ("fc0", "fc1"):
            weight, bias = self.weights[layer]
            hidden = np.maximum(hidden @ weight + bias, 0)
        mean, log_std = (
            hidden @ weight + bias
            for weight, bias in (self.weights["last_fc"], self.weights["last_fc_log_std"])
        )
        # The bounds are those of the code that trained D4RL's policies (rlkit).
        std = np.exp(np.clip(log_std, -20, 2))
        return SQUASHES[self.squash](mean + std * noise.astype(np.float32))


@dataclass(frozen=True)
class UniformPolicy:
    """Actions uniform in [-1, 1], whatever the observation."""

    description: str = "uniformly random actions"
    sizes: None = None

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr

        return (2 * ndtr(noise) - 1).astype(np.float32)


def load_actor(name: str) -> Actor:
    """`uniform`, or the path of a policy file."""
    return UniformPolicy() if name == "uniform" else GaussianPolicy.load(Path(name))


def collect(
    actor: Actor,
    env_id: str,
    steps: int,
    seed: int,
    output: Path,
    name: str,
    source: dict[str, Any],
    workers: int | None = None,
    reporter: Reporter | None = None,
    episodes: int | None = None,
) -> EpisodeStore:
    """Roll the actor out for at least `steps` transitions of whole episodes, into a store.

    episodes: stop after so many instead, however long they are.

    Episode i starts from, and draws its noise from, a seed of its own made of (seed, i), so the
    data do not depend on the number of worker processes (by default one a core).
    """
    size, unit = (steps, "step") if episodes is None else (episodes, "episode")
    if size < 1:
        raise UserError(f"{size} {unit}s asked for; at least 1 is needed")
    if workers is None:
        workers = os.cpu_count() or 1
    if seed < 0 or workers < 1:
        raise UserError(f"seed {seed} must not be negative, and workers {workers} at least 1")
    found = facts_by_name(env_id)
    _check_fits(actor, env_id)
    reporter = reporter or Reporter()
    with StoreWriter(output) as writer, reporter.bar(f"collect {name}", unit, size) as bar:
        total = done = 0
        for episode in _waves(actor, env_id, seed, workers):
            writer.append(episode)
            total += len(episode)
            new = min(len(episode) if episodes is None else 1, size - done)
            done += new
            bar.update(new)
            if done == size:
                break
        asked = {"steps": steps if episodes is None else None, "episodes": episodes, "seed": seed}
        return writer.finish(
            name,
            {**source, **asked},
            env_id=env_id,
            family=found[0] if found else None,
            max_episode_steps=max(writer.lengths) if found is None else found[1].max_episode_steps,
            transitions_in=total,
            has_timeouts=True,
        )


def _check_fits(actor: Actor, env_id: str) -> None:
    """UserError unless the environment exists here and has the sizes the actor was made for."""
    envs = Environments(env_id, 1)
    shape, action_size = envs.sizes
    envs.close()
    if actor.sizes not in (None, (shape[0], action_size)):
        raise UserError(
            f"{actor.description} has {actor.sizes} observation and action dimensions;"
            f" {env_id} has {shape[0]} and {action_size}"
        )


# Products this small gain nothing from threads, which would fight over the cores.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def _waves(actor: Actor, env_id: str, seed: int, workers: int) -> Iterator[Episode]:
    """Episodes 0, 1, 2, ... without end, computed `workers` waves ahead."""
    former = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read by the workers when they start
    # Started afresh, not forked: torch and MuJoCo hold threads that a fork would leave locked.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        pending = [pool.submit(run_wave, actor, env_id, seed, wave) for wave in range(workers)]
        for following in itertools.count(workers):
            yield from pending.pop(0).result()
            pending.append(pool.submit(run_wave, actor, env_id, seed, following))
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run_wave(actor: Actor, env_id: str, seed: int, wave: int) -> list[Episode]:
    """Episodes wave * WAVE to (wave + 1) * WAVE - 1, whole."""
    envs = Environments(env_id, WAVE)
    _, action_size = envs.sizes
    generators = [np.random.default_rng([seed, wave * WAVE + slot]) for slot in range(WAVE)]
    observations = envs.reset([int(generator.integers(2**31)) for generator in generators])
    noise = np.zeros((WAVE, action_size))
    steps: list[list[tuple]] = [[] for _ in range(WAVE)]
    ends = [(False, False)] * WAVE
    while envs.running.any():
        rows = np.flatnonzero(envs.running)
        for row in rows:
            noise[row] = generators[row].standard_normal(action_size)
        actions = actor.act(observations, noise)
        following, rewards, terminated, truncated = envs.step(rows, actions[rows])
        for i, row in enumerate(rows):
            steps[row].append((observations[row].copy(), actions[row], rewards[i]))
            ends[row] = (bool(terminated[i]), bool(truncated[i] and not terminated[i]))
        observations[rows] = following
    envs.close()
    return [
        _episode(recorded, final, end)
        for recorded, final, end in zip(steps, observations, ends, strict=True)
    ]


def _episode(steps: list[tuple], final: np.ndarray, ends: tuple[bool, bool]) -> Episode:
    observations, actions, rewards = zip(*steps, strict=True)
    return Episode(
        np.stack([*observations, final]).astype(np.float32),
        np.stack(actions),
        np.array(rewards, np.float32),
        *ends,
    )


Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def _hdf5_arrays(path: Path, layers: tuple[str, ...]) -> tuple[Arrays, str]:
    import h5py

    try:
        with h5py.File(path) as file:
            group = file["metadata/policy"]
            arrays = {n: (group[f"{n}/weight"][:], group[f"{n}/bias"][:]) for n in layers}
            return arrays, "tanh"
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} carries no behaviour policy (metadata/policy)") from error
    except OSError as error:
        raise UserError(f"policy file {path} is no HDF5 file, or is cut short") from error


def _safetensors_arrays(path: Path, layers: tuple[str, ...]) -> tuple[Arrays, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            get = file.get_tensor
            arrays = {name: (get(f"{name}/weight"), get(f"{name}/bias")) for name in layers}
            return arrays, (file.metadata() or {}).get("squash", "tanh")
    except (SafetensorError, OSError) as error:
        raise UserError(f"policy file {path} holds no Gaussian actor ({error})") from error
