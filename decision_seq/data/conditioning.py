"""Conditionings: the hindsight label of a step, the prompt of a rollout, and its update per step.

One class defines all three, so training and evaluation agree. The return scale is defined only
here. A new conditioning is a class with its `register_subclass` line, here or in a module that
`decision_seq.data` imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import draccus
import numpy as np

from decision_seq.config import require, to_tree
from decision_seq.data.identity import store_root
from decision_seq.data.store import Column, EpisodeStore
from decision_seq.envs import FACTS
from decision_seq.types import Episode, Transition, UserError

# Labels that are unknown in a rollout: only policies that predict them can use them.
HINDSIGHT_ONLY = frozenset({"reward", "value"})


@dataclass(frozen=True)
class Conditioning(draccus.ChoiceRegistry):
    """Base class of conditionings."""

    fields: ClassVar[tuple[str, ...]] = ()
    """Names of its labels, in the order of a condition's columns. Policies find their labels by
    these names (`PolicyConfig.needs`). A label may be several columns wide."""

    @classmethod
    def default_choice_name(cls) -> str:
        return "return"

    @property
    def size(self) -> int:
        """C, the width of a condition."""
        raise NotImplementedError

    @property
    def asks(self) -> bool:
        """Whether a rollout has a target."""
        return self.size > 0

    @property
    def discount(self) -> float:
        """Discount of future rewards in the labels."""
        return 1.0

    def relabel(self, episode: Episode) -> np.ndarray:
        """The hindsight labels of every step, [T, C] float32."""
        raise NotImplementedError

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        """Targets [N] in the environment's units -> first conditions [N, C]."""
        raise NotImplementedError

    def advance(
        self,
        conditions: np.ndarray,
        targets: np.ndarray,
        transition: Transition,
        timesteps: np.ndarray,
    ) -> np.ndarray:
        """The conditions [N, C] after a transition at `timesteps` [N]; by default unchanged."""
        return conditions

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Write the labels of every transition into `out` [N, C]."""
        for index, episode in enumerate(store.episodes()):
            out[store.offsets[index] : store.offsets[index + 1]] = self.relabel(episode)

    def resolved(self, store: EpisodeStore) -> Conditioning:
        """A copy in which all values that depend on the data are filled in."""
        return self

    @property
    def labelling(self) -> Conditioning:
        """A copy with only the settings that its labels depend on, without those of rollouts."""
        return self


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Undiscounted sum of rewards t..T-1 at every t, [T] float64 (Chen et al., 2021, section 3)."""
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1]


@Conditioning.register_subclass("return")
@dataclass(frozen=True)
class ReturnToGo(Conditioning):
    """Conditioning on the return-to-go divided by `scale` (Chen et al., 2021)."""

    fields: ClassVar[tuple[str, ...]] = ("return_to_go",)
    scale: float | None = None
    """Divisor of the returns; null for the task's published one (1000 for D4RL's locomotion), or
    else the power of ten at or below the largest absolute return of the data."""
    clip: bool | None = None
    """Whether rewards are clipped to [-1, 1] before they are summed, in the data and in rollouts;
    null to clip where the data's rewards were clipped, so that both agree. (The original trains on
    DQN-replay's clipped rewards and sums a rollout's raw ones: clip false.)"""

    def __post_init__(self) -> None:
        positive = self.scale is None or (np.isfinite(self.scale) and self.scale > 0)
        require(positive, f"config: conditioning.scale {self.scale} must be above 0")

    @property
    def size(self) -> int:
        return 1

    def of_store(self, store: EpisodeStore) -> np.ndarray:
        """The summed quantity of every transition, [N]: here its reward."""
        return store.columns["rewards"].array

    def of_episode(self, episode: Episode) -> np.ndarray:
        """The summed quantity of every step of an episode, [T]."""
        return episode.rewards

    def of_transition(self, transition: Transition) -> np.ndarray:
        """The summed quantity of one step of N environments, [N]."""
        return transition.rewards

    def relabel(self, episode: Episode) -> np.ndarray:
        return self._labels(self.of_episode(episode))

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel`, but reads only the column of the summed quantity."""
        values = self.of_store(store)
        for start, end in itertools.pairwise(store.offsets):
            out[start:end] = self._labels(values[start:end])

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return (np.asarray(targets, np.float64) / self._scale)[:, None].astype(np.float32)

    def advance(
        self,
        conditions: np.ndarray,
        targets: np.ndarray,
        transition: Transition,
        timesteps: np.ndarray,
    ) -> np.ndarray:
        values = self._counted(self.of_transition(transition))
        return (conditions - values[:, None] / self._scale).astype(np.float32)

    def resolved(self, store: EpisodeStore) -> Self:
        # A delayed reward is a sum of rewards, which are already clipped where the data's are.
        clip = store.clipped and not store.delayed if self.clip is None else self.clip
        require(
            not (clip and store.delayed),
            "config: conditioning.clip would cut a delayed return to [-1, 1]; set it to false",
        )
        scale = self._scale_of(store) if self.scale is None else self.scale
        return replace(self, scale=scale, clip=clip)

    @staticmethod
    def _scale_of(store: EpisodeStore) -> float:
        facts = FACTS.get(store.header["family"] or "")
        if facts is not None and facts.return_scale is not None:
            return facts.return_scale
        largest = float(np.abs(store.returns).max())
        return float(10.0 ** np.floor(np.log10(largest))) if largest > 0 else 1.0

    def _labels(self, values: np.ndarray) -> np.ndarray:
        return (returns_to_go(self._counted(values)) / self._scale)[:, None].astype(np.float32)

    def _counted(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, -1, 1) if self.clip else values

    @property
    def _scale(self) -> float:
        if self.scale is None:
            raise ValueError("the scale is not resolved: call resolved(store) first")
        return self.scale


@Conditioning.register_subclass("shuffled_return")
@dataclass(frozen=True)
class ShuffledReturnToGo(ReturnToGo):
    """Control experiment: the returns-to-go of all transitions, shuffled over the transitions.

    A policy trained on it can learn nothing from its condition, so its returns must not depend on
    the target. It is the control for differences between targets under other conditionings.
    (Exchanging the labels of whole episodes is not enough: a label would still depend on the time
    within an episode, and the few episodes with the highest labels, good or bad by chance, would
    define what a high target means.)
    """

    fields: ClassVar[tuple[str, ...]] = ("shuffled_return_to_go",)
    shuffle_seed: int = 0
    """Seed of the shuffling."""

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Write every label once, each at a random transition."""
        super().relabel_store(store, out)
        out[:] = out[np.random.default_rng(self.shuffle_seed).permutation(len(out))]


@Conditioning.register_subclass("none")
@dataclass(frozen=True)
class Unconditioned(Conditioning):
    """No condition: C = 0. A policy then imitates the data (behaviour cloning)."""

    @property
    def size(self) -> int:
        return 0

    def relabel(self, episode: Episode) -> np.ndarray:
        return np.empty((len(episode), 0), np.float32)

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return np.empty((len(targets), 0), np.float32)


def label(store: EpisodeStore, conditioning: Conditioning) -> Column:
    """The conditions of every transition, [N, C], computed once and cached in the store's folder.

    UserError where the store's folder cannot be written.
    """
    shape = (store.num_transitions, conditioning.size)
    if conditioning.size == 0:  # empty: nothing to cache or memory-map
        return Column(np.empty(shape, np.float32))
    name = f"conditions-{_key(store, conditioning)}.npy"
    for folder in (store.path, _folder_elsewhere(store)):
        with contextlib.suppress(OSError, ValueError, EOFError):  # absent, or cut short
            cached = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            if cached.shape == shape and cached.dtype == np.float32:
                return Column(cached)
    folder = store.path if os.access(store.path, os.W_OK) else _folder_elsewhere(store)
    partial = folder / f".{os.getpid()}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
        conditioning.relabel_store(store, array)
        array.flush()
        os.replace(partial, folder / name)
    except OSError as error:
        raise UserError(f"cannot save the labels in {folder}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)  # after Ctrl-C too
    return Column(np.load(folder / name, mmap_mode="r", allow_pickle=False))


def _folder_elsewhere(store: EpisodeStore) -> Path:
    """The folder for the labels of a store on a read-only disk."""
    key = hashlib.sha256(str(store.path.resolve()).encode() + store.checksum.encode()).hexdigest()
    return store_root() / f"labels-{key[:12]}"


def _key(store: EpisodeStore, conditioning: Conditioning) -> str:
    """Cache key of the labels: a hash of the data, the settings and the code that computes them.

    The folder is not enough, because its data may be presented with other rewards (`transforms`).
    The code is included so that cached labels are not used after an edit of `relabel`.
    """
    digest = hashlib.sha256(store.checksum.encode())
    digest.update(type(conditioning).__name__.encode())
    digest.update(json.dumps(to_tree(conditioning.labelling), sort_keys=True).encode())
    for module in {cls.__module__ for cls in type(conditioning).__mro__} - {"builtins"}:
        if not module.startswith("draccus"):
            digest.update(inspect.getsource(sys.modules[module]).encode())
    return digest.hexdigest()[:12]
