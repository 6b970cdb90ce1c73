"""Action spaces of environments, and actions as a store and a policy hold them.

| space | in a store and a policy |
|---|---|
| Box of any shape | a vector [A], the box's entries in C order |
| Discrete(n, start) | one of n choices, start to start + n - 1 |
| MultiDiscrete, MultiBinary | one choice from 0: the number of the combination in C order |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decision_seq.types import UserError

MOST_CHOICES = 2**16  # of a discrete action; larger numbers are not choices but something else
MOST_COMBINATIONS = 4096  # of a MultiDiscrete space; each is a row of the head's matrix


@dataclass(frozen=True)
class ActionSpace:
    """The actions of an environment: vectors of numbers, or consecutive choices."""

    kind: Literal["continuous", "discrete"]
    """Kind of the actions."""
    size: int
    """A: entries of a vector, or number of choices."""
    first_choice: int = 0
    """The smallest choice."""
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    """Lower and upper bounds [A] of a vector, which may be infinite; None for choices."""
    shape: tuple[int, ...] = ()
    """Shape of the environment's own action."""
    dtype: Any = None
    """Type of the entries of the environment's own action."""
    counts: tuple[int, ...] = ()
    """Choices of each entry of a combination; empty for other spaces."""
    starts: tuple[int, ...] = ()
    """The smallest choice of each entry of a combination."""

    @classmethod
    def of(cls, space: Any, owner: str) -> ActionSpace:
        """The actions of a Gymnasium space; UserError, which names the owner, for other spaces."""
        kind = type(space).__name__
        if kind == "Box":
            low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
            if low.size:
                return cls("continuous", low.size, 0, (low, high), tuple(space.shape), space.dtype)
        if kind == "Discrete":
            if space.n > MOST_CHOICES:
                raise UserError(
                    f"{owner} has {int(space.n):,} choices; at most {MOST_CHOICES:,} are taken;"
                    " give it a vector of numbers"
                )
            return cls("discrete", int(space.n), int(space.start))
        if kind in ("MultiDiscrete", "MultiBinary"):
            counts = np.full(space.shape, 2) if kind == "MultiBinary" else np.asarray(space.nvec)
            starts = np.asarray(getattr(space, "start", np.zeros_like(counts)))
            number = np.prod(counts.reshape(-1), dtype=np.float64)
            if number > MOST_COMBINATIONS:
                raise UserError(
                    f"{owner} has {number:.3g} combinations of choices; at most"
                    f" {MOST_COMBINATIONS:,} are taken as one choice; give it a vector of numbers"
                )
            shape = tuple(counts.shape)
            flat = (tuple(map(int, values.reshape(-1))) for values in (counts, starts))
            return cls("discrete", int(number), 0, None, shape, space.dtype, *flat)
        raise UserError(
            f"{owner} has a space {space}; actions have to be vectors of numbers (Box), or choices"
            " (Discrete, MultiDiscrete, MultiBinary)"
        )

    @property
    def header_entries(self) -> dict[str, Any]:
        """The entries of a store's header on the space, see `datasets.store.episode_store`."""
        if self.kind == "discrete":
            return {"choices": self.size, "first_choice": self.first_choice}
        assert self.bounds is not None
        bounds = [[float(b) if np.isfinite(b) else None for b in bound] for bound in self.bounds]
        return {"action_bounds": bounds}

    @property
    def plain(self) -> bool:
        """Whether the environment takes an action as a store holds it."""
        if self.kind == "discrete":
            return not self.counts
        return len(self.shape) == 1 and np.can_cast(np.float32, self.dtype)

    def to_environment(self, action: np.ndarray) -> Any:
        """One action as a store holds it -> the environment's own."""
        if self.plain:
            return action
        if self.kind == "discrete":
            entries = np.array(np.unravel_index(int(action), self.counts)) + self.starts
            return entries.reshape(self.shape).astype(self.dtype)
        rounded = action if np.dtype(self.dtype).kind == "f" else np.rint(action)
        return rounded.reshape(self.shape).astype(self.dtype)

    def from_unit(self, actions: np.ndarray) -> np.ndarray:
        """A behaviour policy's actions [N, A] in [-1, 1] -> actions as a store holds them.

        An entry with finite bounds is scaled to them; one with a single bound is moved within it.
        Of choices, the largest number's is taken.
        """
        if self.kind == "discrete":
            return actions.argmax(1) + self.first_choice
        assert self.bounds is not None
        low, high = self.bounds
        low, high = _finite(low, high)
        if ((low == -1) & (high == 1)).all():
            return actions
        share = (actions + 1) / 2
        with np.errstate(over="ignore", invalid="ignore"):
            width = high - low  # infinite between the largest numbers
            scaled = low + share * width
        scaled = np.where(np.isfinite(width), scaled, low * (1 - share) + high * share)
        most = np.finfo(actions.dtype).max  # a wider bound is no number of this type
        return scaled.clip(-most, most).astype(actions.dtype)

    def from_data(self, values: np.ndarray, name: str) -> np.ndarray:
        """The environment's own actions [T, ...] -> [T, A] float32 or [T] int64.

        UserError for values that are not in the space of choices, or of another shape.
        """
        if self.kind == "continuous":
            if values.shape[1:] != self.shape:
                raise UserError(
                    f"{name} have shape {values.shape[1:]}; their space has {self.shape}"
                )
            return values.reshape(len(values), -1).astype(np.float32, copy=False)
        if values.dtype.kind not in "iub":
            raise UserError(f"{name} are {values.dtype}; their space has choices")
        counts = self.counts or (self.size,)
        starts = self.starts or (self.first_choice,)
        if values.size != len(values) * len(counts):
            raise UserError(
                f"{name} have shape {values.shape[1:]}; their space has {len(counts)} choice(s) a"
                " step"
            )
        entries = values.reshape(len(values), -1).astype(np.int64)
        outside = (entries < starts) | (entries >= np.add(starts, counts))
        if outside.any():
            raise UserError(
                f"{name} hold {entries[outside][0]}; their space has {self.size} choices from"
                f" {starts[0]}"
            )
        if not self.counts:
            return entries[:, 0]
        return np.ravel_multi_index(tuple((entries - starts).T), self.counts).astype(np.int64)


def _finite(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite bounds: -1 and 1, moved as a whole where they leave the only bound of an entry."""
    bounded = np.isfinite(low), np.isfinite(high)
    below = np.where(bounded[1], np.minimum(high, 1), 1) - 2
    least = np.where(bounded[0], np.maximum(low, -1), below)
    both = bounded[0] & bounded[1]
    return np.where(both, low, least), np.where(both, high, least + 2)
