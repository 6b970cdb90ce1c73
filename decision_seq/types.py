"""Values exchanged between the parts of the package: episodes, batches, specs, scores.

Shape legend, used everywhere: B windows in a batch, T steps in a window, L tokens in a sequence,
D width of a token, S size of an observation, A size of an action, C size of a condition,
N environments stepped together, E episodes in a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class UserError(Exception):
    """An error that the user can fix; the message is one line with the fault and the remedy.

    The command line prints it and exits with code 2. Any other exception is a bug.
    """

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows of the error: its line, without a traceback through the package."""
        return [f"{type(self).__name__}: {self}"]


class Bar(Protocol):
    """A progress bar with the interface of tqdm."""

    def update(self, n: int = 1) -> Any: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> Any: ...


class _SilentBar:
    def update(self, n: int = 1) -> None: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...


class Reporter:
    """Receiver of messages and progress; this base class discards them."""

    def say(self, line: str) -> None:
        """Report a message of one line."""

    @contextmanager
    def bar(self, what: str, unit: str, total: int, initial: int = 0) -> Iterator[Bar]:
        """A progress bar over `total` units."""
        yield _SilentBar()


@dataclass(frozen=True)
class Episode:
    """One trajectory, in the environment's own units.

    If it is neither terminated nor truncated, the data stop in the middle of the episode, and the
    return is a lower bound of the whole episode's.
    """

    observations: np.ndarray
    """[T + 1, ...] where the source has the last one (`has_final_observation`), else [T, ...]."""
    actions: np.ndarray
    """[T, A] float, or [T] int where actions are discrete."""
    rewards: np.ndarray
    """[T]."""
    terminated: bool
    """Whether the environment ended the episode."""
    truncated: bool
    """Whether a time limit ended the episode."""

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def has_final_observation(self) -> bool:
        return len(self.observations) == len(self.rewards) + 1


class Sampling(NamedTuple):
    """Random draws of actions or tokens for N policies, each with its own random number."""

    draws: Any  # [N] uniform in [0, 1), torch
    temperature: float  # above 0; 1 is the trained distribution, less is greedier


class Transition(NamedTuple):
    """The result of one step of N environments."""

    observations: np.ndarray  # [N, ...] before the step
    actions: np.ndarray  # [N, A]
    rewards: np.ndarray  # [N]
    next_observations: np.ndarray  # [N, ...]


@dataclass(frozen=True)
class Spec:
    """The sizes and kinds of a policy's data, which a store and a conditioning determine."""

    observation_shape: tuple[int, ...]
    """Shape of one step's observation: [S], or [stack, H, W] uint8 for the last `stack` frames."""
    action_size: int
    """A: dimensions of a continuous action, or number of choices of a discrete one."""
    action_kind: Literal["continuous", "discrete"]
    """Kind of the actions."""
    condition_size: int
    """C: size of a step's condition."""
    max_timestep: int
    """Timesteps run from 0 to max_timestep - 1."""
    discount: float = 1.0
    """Discount of future rewards in the conditioning."""
    action_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Lower and upper bounds [A] of continuous actions, which a policy scales to [-1, 1] inside;
    None for actions that it uses unscaled."""
    first_choice: int = 0
    """The smallest of the A choices of a discrete action; they are consecutive numbers."""

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Spec:
        """Make a spec from plain values, as YAML returns them; ValueError for unfit ones."""
        spec = cls(**{**tree, "observation_shape": tuple(tree["observation_shape"])})
        if spec.action_kind not in ("continuous", "discrete"):
            raise ValueError("action_kind, which is continuous or discrete")
        if type(spec.max_timestep) is not int or spec.max_timestep < 1:
            raise ValueError("max_timestep, which is a whole number of at least 1")
        if type(spec.first_choice) is not int or abs(spec.first_choice) >= 2**31:
            raise ValueError("first_choice, which is a whole number")
        if spec.action_range is None:
            return spec
        low, high = (tuple(map(float, bound)) for bound in spec.action_range)
        widths = [b - a for a, b in zip(low, high, strict=True)]
        if len(low) != spec.action_size or not all(0 < width < np.inf for width in widths):
            raise ValueError("action_range, which is A lower and A upper bounds")
        return replace(spec, action_range=(low, high))

    @property
    def pixels(self) -> bool:
        """Whether observations are stacks of frames."""
        return len(self.observation_shape) == 3

    @property
    def stack(self) -> int:
        """Frames in an observation; 1 where it is a vector."""
        return self.observation_shape[0] if self.pixels else 1

    def one_step(self, observations: Any) -> Any:
        """Reshape observations [N, ...] of one step to those of a `Batch` of one-step windows."""
        return observations if self.pixels else observations[:, None]


@dataclass(frozen=True)
class Batch:
    """B windows of T consecutive steps, padded on the right.

    Arrays are numpy when gathered and torch after `tensors`. Where mask is False, contents are
    arbitrary finite numbers: no loss reads them, and no real step of a causal model depends on
    them.

    Each frame is stored once: the observation of step t is observations[:, t : t + stack], and the
    frames before an episode's first are zeros.
    """

    observations: Any  # [B, T, S], or [B, stack - 1 + T, H, W] uint8 where they are frames
    actions: Any  # [B, T, A], or [B, T] when discrete
    rewards: Any  # [B, T]
    conditions: Any  # [B, T, C]
    timesteps: Any  # [B, T] int64
    mask: Any  # [B, T] bool, True = real
    # [B, T] bool: the environment ended the episode with this step; False for a time limit and for
    # padding. None in a rollout, where no episode has ended.
    terminated: Any = None
    # [B] int64: the store's row of each window's first step. None in a rollout.
    ids: Any = None
    # [B, F, S] observations of the F steps after the window, and [B, F] bool, True where the
    # episode has such a step; None unless the policy needs them (`PolicyConfig.futures`).
    futures: Any = None
    futures_mask: Any = None

    def tensors(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Batch:
        """The same batch as torch tensors on `device`; floats become `dtype` (float32)."""
        import torch

        def convert(array: Any) -> torch.Tensor | None:
            if array is None:
                return None
            tensor = torch.as_tensor(array)
            if tensor.is_floating_point():
                tensor = tensor.to(dtype or torch.float32)
            return tensor.to(device, non_blocking=True)

        return replace(self, **{f.name: convert(getattr(self, f.name)) for f in fields(self)})

    @property
    def lengths(self) -> Any:
        """[B]: number of real steps in each window; row i's newest step is at `lengths[i] - 1`."""
        return self.mask.sum(1)


@dataclass(frozen=True)
class TargetScore:
    """Results of the episodes rolled out for one target."""

    target: float | None  # target return, raw; None for a policy that takes no target
    returns: list[float]  # undiscounted, raw, one per episode
    lengths: list[int]
    seed: int  # episode i was reset with seed + i
    return_mean: float
    return_std: float
    normalized_score: float | None  # x100; None where no reference scores are known
    interval_95: tuple[float, float] | None  # of normalized_score, or of return_mean without one
    episodes: int

    @classmethod
    def of(cls, tree: dict[str, Any]) -> TargetScore:
        """Make a score from plain values, as JSON returns them."""
        interval = tree["interval_95"]
        return cls(**{**tree, "interval_95": None if interval is None else tuple(interval)})

    def __str__(self) -> str:
        """One line: target, mean return and its deviation, normalised score, interval."""
        parts = [] if self.target is None else [f"target {self.target:.5g}"]
        parts.append(f"return {self.return_mean:.5g} ± {self.return_std:.3g}")
        if self.normalized_score is not None:
            parts.append(f"normalized {self.normalized_score:.1f}")
        if self.interval_95 is not None:
            form = ".5g" if self.normalized_score is None else ".1f"
            low, high = (f"{end:{form}}" for end in self.interval_95)
            parts.append(f"95 % interval {low} to {high}")
        return ", ".join([*parts, f"{self.episodes} episodes"])


@dataclass(frozen=True)
class Scores:
    """Results of an evaluation, with the facts that are needed to reproduce it."""

    dataset: str
    source: str
    env_id: str
    checkpoint: str
    targets: list[TargetScore]
    notes: list[str] = field(default_factory=list)
    env_steps_per_second: float | None = None

    def __str__(self) -> str:
        """A line for each target."""
        return "\n".join(map(str, self.targets))
