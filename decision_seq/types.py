"""The values that pass between the parts: episodes, batches, specifications, scores.

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
    """Something the user can mend; the message is one line that names the thing and the mend.

    The command line prints it and exits with code 2. Everything else is a bug of ours.
    """


class Bar(Protocol):
    """A progress bar, as tqdm's."""

    def update(self, n: int = 1) -> Any: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> Any: ...


class _SilentBar:
    def update(self, n: int = 1) -> None: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...


class Reporter:
    """Where news and progress go; this one keeps silent, the command line's does not."""

    def say(self, line: str) -> None:
        """One line of news."""

    @contextmanager
    def bar(self, what: str, unit: str, total: int, initial: int = 0) -> Iterator[Bar]:
        """A progress bar over `total` units."""
        yield _SilentBar()


@dataclass(frozen=True)
class Episode:
    """One trajectory, in the environment's own units.

    observations: [T + 1, ...] where the source has the last one (`has_final_observation`), else
        [T, ...]; actions: [T, A] float or [T] int; rewards: [T].
    terminated: the environment ended it; truncated: a time limit did. Neither: the data stop in
        the middle, so the return is a lower bound of what was still to come.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def has_final_observation(self) -> bool:
        return len(self.observations) == len(self.rewards) + 1


class Sampling(NamedTuple):
    """How N policies draw actions or tokens, each with a number of its own."""

    draws: Any  # [N] uniform in [0, 1), torch
    temperature: float  # above 0; 1 acts as was trained, less is greedier


class Transition(NamedTuple):
    """What one step of N environments returned."""

    observations: np.ndarray  # [N, ...] the observations acted upon
    actions: np.ndarray  # [N, A]
    rewards: np.ndarray  # [N]
    next_observations: np.ndarray  # [N, ...]


@dataclass(frozen=True)
class Spec:
    """What a policy must know of its data: fixed by a store and a conditioning.

    observation_shape: shape of what an environment shows at one step: [S], or [stack, H, W] where
        it is the last `stack` frames, uint8.
    action_size: dimensions of a continuous action, number of choices of a discrete one;
    condition_size: C; max_timestep: timesteps run from 0 to max_timestep - 1; discount: of what is
    still to come, as the conditioning counts it.
    """

    observation_shape: tuple[int, ...]
    action_size: int
    action_kind: Literal["continuous", "discrete"]
    condition_size: int
    max_timestep: int
    discount: float = 1.0

    @property
    def pixels(self) -> bool:
        """Whether observations are stacks of frames."""
        return len(self.observation_shape) == 3

    @property
    def stack(self) -> int:
        """Frames in an observation; 1 where it is a vector."""
        return self.observation_shape[0] if self.pixels else 1

    def one_step(self, observations: Any) -> Any:
        """Observations [N, ...] of one step each as those of a `Batch` of windows of one step."""
        return observations if self.pixels else observations[:, None]


@dataclass(frozen=True)
class Batch:
    """B windows of T consecutive steps, padded on the right.

    Arrays are numpy as gathered and torch after `tensors`. Where mask is False, contents are
    arbitrary finite numbers: no loss reads them and no causal model can see them.

    Each frame is there once: the observation of step t is observations[:, t : t + stack], and the
    frames before an episode's first are zeros.
    """

    observations: Any  # [B, T, S], or [B, stack - 1 + T, H, W] uint8 where they are frames
    actions: Any  # [B, T, A], or [B, T] when discrete
    rewards: Any  # [B, T]
    conditions: Any  # [B, T, C]
    timesteps: Any  # [B, T] int64
    mask: Any  # [B, T] bool, True = real
    # [B, T] bool: the environment ended the episode with this step (a time limit is no such end,
    # padding neither). None in a rollout, where no episode has ended.
    terminated: Any = None
    # [B] int64: the row of the store with which each window begins. None in a rollout.
    ids: Any = None
    # [B, F, S] the observations of the F steps behind the window, and [B, F] bool which of them the
    # episode had; None unless the policy asks for them (`PolicyConfig.futures`).
    futures: Any = None
    futures_mask: Any = None

    def tensors(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Batch:
        """The same batch as torch tensors on `device`; floating point becomes `dtype`, float32."""
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
        """[B]: real steps in each window; the newest one of row i is at `lengths[i] - 1`."""
        return self.mask.sum(1)


@dataclass(frozen=True)
class TargetScore:
    """Every episode rolled out for one target."""

    target: float | None  # raw return asked for; None for a policy that is asked for nothing
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
        """From plain values, as JSON gives them back."""
        interval = tree["interval_95"]
        return cls(**{**tree, "interval_95": None if interval is None else tuple(interval)})


@dataclass(frozen=True)
class Scores:
    """The outcome of an evaluation, complete enough to be reproduced."""

    dataset: str
    source: str
    env_id: str
    checkpoint: str
    targets: list[TargetScore]
    notes: list[str] = field(default_factory=list)
    env_steps_per_second: float | None = None
