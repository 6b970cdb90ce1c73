"""Conditionings: the hindsight label of a step, the prompt of a rollout, and how it advances.

One class defines all three, so training and evaluation cannot disagree. The return scale is defined
here and nowhere else. A new conditioning is a class with its `register_subclass` line, here or in a
module that `decision_seq.data` imports.
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

# Labels that a rollout does not know when it acts: only a policy that predicts them can use them.
HINDSIGHT_ONLY = frozenset({"reward", "value"})


@dataclass(frozen=True)
class Conditioning(draccus.ChoiceRegistry):
    """Contract of a conditioning.

    fields: the names of its labels, in the order of a condition's columns. Policies find their
    labels by these names (`PolicyConfig.needs`). A label may be several columns wide.
    size: C, the width of a condition.
    shuffles: whether `relabel_store` gives transitions the labels of others, as a control does.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    shuffles: ClassVar[bool] = False

    @classmethod
    def default_choice_name(cls) -> str:
        return "return"

    @property
    def size(self) -> int:
        raise NotImplementedError

    @property
    def asks(self) -> bool:
        """Whether a rollout has a target."""
        return self.size > 0

    @property
    def discount(self) -> float:
        """Of what is still to come, in the labels."""
        return 1.0

    def relabel(self, episode: Episode) -> np.ndarray:
        """What was still to come at every step, [T, C] float32."""
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
        """The conditions [N, C] after a transition at `timesteps` [N]; by default the same."""
        return conditions

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Write the labels of every transition into `out` [N, C]."""
        for index, episode in enumerate(store.episodes()):
            out[store.offsets[index] : store.offsets[index + 1]] = self.relabel(episode)

    def resolved(self, store: EpisodeStore) -> Conditioning:
        """The same conditioning with every value that depends on the data written out."""
        return self

    @property
    def labelling(self) -> Conditioning:
        """Itself without what a rollout alone is given: all that its labels depend on."""
        return self


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Undiscounted sum of rewards t..T-1 at every t, [T] float64 (Chen et al., 2021, section 3)."""
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1]


@Conditioning.register_subclass("return")
@dataclass(frozen=True)
class ReturnToGo(Conditioning):
    """The return-to-go divided by `scale` (Chen et al., 2021).

    scale: null takes the published one of the task (1000 for D4RL's locomotion), or else the
    power of ten at or below the largest absolute return of the data.
    clip: whether rewards are clipped to [-1, 1] before they are added up, in the data and in a
    rollout alike; null: as the data's were, so that a rollout counts down as the data did. (The
    original trains on DQN-replay's clipped rewards and counts a rollout's raw ones: clip false.)
    """

    fields: ClassVar[tuple[str, ...]] = ("return_to_go",)
    scale: float | None = None
    clip: bool | None = None

    def __post_init__(self) -> None:
        positive = self.scale is None or (np.isfinite(self.scale) and self.scale > 0)
        require(positive, f"config: conditioning.scale {self.scale} must be above 0")

    @property
    def size(self) -> int:
        return 1

    def of_store(self, store: EpisodeStore) -> np.ndarray:
        """What is added up, of every transition, [N]."""
        return store.columns["rewards"].array

    def of_episode(self, episode: Episode) -> np.ndarray:
        """The same of one episode, [T]."""
        return episode.rewards

    def of_transition(self, transition: Transition) -> np.ndarray:
        """The same of one step of N environments, [N]."""
        return transition.rewards

    def relabel(self, episode: Episode) -> np.ndarray:
        return self._labels(self.of_episode(episode))

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """As `relabel` does, from what is added up alone: the other columns are not read."""
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
        # A delayed reward is the sum of many, each clipped already where the data's are.
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
    """A control: the returns-to-go of all transitions, shuffled among them.

    A policy trained on it can learn nothing from its condition, so its returns must not depend on
    the target: the experiment that shows that a difference between targets is earned. (Lending
    whole episodes' labels would not do: a label would still tell the time within an episode, and
    the few with the highest labels, good or bad by chance, what a high target means.)
    """

    fields: ClassVar[tuple[str, ...]] = ("shuffled_return_to_go",)
    shuffles: ClassVar[bool] = True
    shuffle_seed: int = 0

    def relabel_store(self, store: EpisodeStore, out: np.ndarray) -> None:
        """Every label once, at a transition drawn at random."""
        super().relabel_store(store, out)
        out[:] = out[np.random.default_rng(self.shuffle_seed).permutation(len(out))]


@Conditioning.register_subclass("none")
@dataclass(frozen=True)
class Unconditioned(Conditioning):
    """No condition: C = 0, and a policy does what the data did (behaviour cloning)."""

    @property
    def size(self) -> int:
        return 0

    def relabel(self, episode: Episode) -> np.ndarray:
        return np.empty((len(episode), 0), np.float32)

    def prompt(self, targets: np.ndarray) -> np.ndarray:
        return np.empty((len(targets), 0), np.float32)


def label(store: EpisodeStore, conditioning: Conditioning) -> Column:
    """The conditions of every transition, [N, C], computed once and kept beside the store.

    UserError where the store's folder cannot be written.
    """
    shape = (store.num_transitions, conditioning.size)
    if conditioning.size == 0:  # nothing to keep, and nothing that could be memory-mapped
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
        raise UserError(f"cannot keep the labels in {folder}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)  # Ctrl-C, too, leaves nothing half-made
    return Column(np.load(folder / name, mmap_mode="r", allow_pickle=False))


def _folder_elsewhere(store: EpisodeStore) -> Path:
    """Where the labels of a store on a read-only disk are kept."""
    key = hashlib.sha256(str(store.path.resolve()).encode() + store.checksum.encode()).hexdigest()
    return store_root() / f"labels-{key[:12]}"


def _key(store: EpisodeStore, conditioning: Conditioning) -> str:
    """Names the labels by the data, by their settings and by the code that makes them.

    The folder alone would not do: its data may be presented with other rewards (`transforms`).
    Without the code, labels kept from before an edit of `relabel` would be trained on in silence.
    """
    digest = hashlib.sha256(store.checksum.encode())
    digest.update(type(conditioning).__name__.encode())
    digest.update(json.dumps(to_tree(conditioning.labelling), sort_keys=True).encode())
    for module in {cls.__module__ for cls in type(conditioning).__mro__} - {"builtins"}:
        if not module.startswith("draccus"):
            digest.update(inspect.getsource(sys.modules[module]).encode())
    return digest.hexdigest()[:12]
