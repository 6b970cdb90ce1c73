"""N copies of one environment, stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decision_seq.envs.action_space import ActionSpace
from decision_seq.envs.making import close, make
from decision_seq.modules import FAILURES, described
from decision_seq.types import UserError


class Environments:
    """N copies of one environment, stepped together; an ended one stays idle until `reset`.

    Unlike a Gymnasium vector environment, it never restarts an episode by itself. Exactly N
    episodes are run, and short ones are not overrepresented. UserError, with the episode's seed and
    step, where an environment fails or gives an observation or a reward that is not finite.

    delayed: the last step of an episode returns the sum of its rewards, all other steps return 0.
    step_limit: episodes are truncated after so many steps; None for the environment's limit alone.
    """

    def __init__(
        self, env_id: str, count: int, delayed: bool = False, step_limit: int | None = None
    ) -> None:
        if count < 1:
            raise UserError(f"{count} environments requested; at least 1 is needed")
        self.env_id = env_id
        self.envs = [make(env_id) for _ in range(count)]
        self.actions = ActionSpace.of(self.envs[0].action_space, env_id)
        # Read once: the environment may replace it later, but the policy has one size.
        self.observation_space = self.envs[0].observation_space
        self.running = np.zeros(count, bool)
        self.delayed, self.withheld = delayed, np.zeros(count)
        self.step_limit = step_limit
        self.infos: list[Any] = [None] * count  # of the last reset or step, unchecked
        self.step_counts, self.seeds = np.zeros(count, np.int64), np.full(count, -1)

    def __len__(self) -> int:
        return len(self.envs)

    @property
    def discrete(self) -> bool:
        """Whether an action is one of several choices."""
        return self.actions.kind == "discrete"

    @property
    def sizes(self) -> tuple[tuple[int, ...], int]:
        """Observation shape, and action size: dimensions, or choices of a discrete action."""
        seen = self.observation_space
        if type(seen).__name__ != "Box":
            raise UserError(
                f"{self.env_id} has a space {seen}; vectors of numbers (Box) are needed"
            )
        return tuple(seen.shape), self.actions.size

    @property
    def max_episode_steps(self) -> int | None:
        """Time limit in steps, the smaller of the environment's and `step_limit`; None if none."""
        return time_limit(self.envs[0], self.step_limit)

    def reset(self, seeds: Sequence[int], rows: Sequence[int] | np.ndarray | None = None) -> Any:
        """Start `len(seeds)` episodes, the i-th with its own seed -> observations [N, ...].

        rows: the environments to start; None for the first ones, and all others are then idle.
        """
        if rows is None:
            self.running[:] = False
            rows = range(len(seeds))
        observations = [self.begin(int(row), seed) for row, seed in zip(rows, seeds, strict=True)]
        self.running[list(rows)] = True
        return np.stack(observations)

    def begin(self, row: int, seed: int | None) -> np.ndarray:
        """Start an episode of environment `row` -> its first observation."""
        self.step_counts[row], self.seeds[row] = 0, -1 if seed is None else seed
        self.withheld[row] = 0
        try:
            observation, self.infos[row] = self.envs[row].reset(seed=seed)
        except FAILURES as error:
            raise UserError(f"{self.env_id} fails {self._when(row)}: {described(error)}") from error
        return self._observed([observation], [row])[0]

    def step(
        self, rows: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Step the environments `rows` -> observations, rewards, terminated, truncated.

        actions: [R, A], or [R] if discrete, see `ActionSpace`; UserError for actions of the other
        kind.
        """
        if self.discrete != (actions.ndim == 1):
            takes = "a choice" if self.discrete else "a vector"
            raise UserError(
                f"{self.env_id} takes {takes} as an action, which the policy does not give; name"
                " another environment"
            )
        acted = actions if self.actions.plain else map(self.actions.to_environment, actions)
        results = [self._stepped(row, action) for row, action in zip(rows, acted, strict=True)]
        observations, given, terminated, truncated = zip(*results, strict=True)
        self.step_counts[rows] += 1
        seen, rewards = self._observed(observations, rows), self._rewards(given, rows)
        over = self._ends(terminated, rows, "terminated")
        cut = self._ends(truncated, rows, "truncated")
        if self.step_limit is not None:
            cut |= self.step_counts[rows] >= self.step_limit
        ended = over | cut
        self.running[rows[ended]] = False
        if self.delayed:
            self.withheld[rows] += rewards
            rewards = np.where(ended, self.withheld[rows], 0.0)
        return seen, rewards, over, cut

    def _stepped(self, row: int, action: Any) -> tuple[Any, Any, Any, Any]:
        try:
            observation, reward, terminated, truncated, info = self.envs[row].step(action)
            self.infos[row] = info
            return observation, reward, terminated, truncated
        except FAILURES as error:
            self.step_counts[row] += 1
            raise UserError(f"{self.env_id} fails {self._when(row)}: {described(error)}") from error

    def _when(self, row: int) -> str:
        """The time of an event in environment `row`, for messages."""
        episode = f"the episode of seed {self.seeds[row]}" if self.seeds[row] >= 0 else "an episode"
        step = self.step_counts[row]
        return f"at step {step} of {episode}" if step else f"at the reset of {episode}"

    def _observed(self, observations: Sequence[Any], rows: Any) -> np.ndarray:
        """Observations [R, ...]; UserError unless they have their space's shape and are finite."""
        shape = self.observation_space.shape
        try:
            seen = np.stack(observations)
        except ValueError:  # of different shapes
            seen = np.zeros(0)
        if seen.shape[1:] != shape or len(seen) != len(observations):
            raise self._misshapen(observations, rows)
        if seen.dtype.kind == "f" and not np.isfinite(seen).all():
            finite = np.isfinite(seen.reshape(len(seen), -1)).all(1)
            row = rows[int(np.argmin(finite))]
            raise UserError(
                f"{self.env_id} gives an observation with NaN or infinity {self._when(row)}"
            )
        if seen.dtype.kind not in "fiub":
            raise UserError(f"{self.env_id} gives observations of {seen.dtype}, not numbers")
        return seen

    def _misshapen(self, observations: Sequence[Any], rows: Any) -> UserError:
        """The error for observations of which at least one is not of the space's shape."""
        shape = self.observation_space.shape
        shapes = [_shape(one) for one in observations]
        at = next((i for i, found in enumerate(shapes) if found != shape), 0)
        found = "different lengths" if shapes[at] is None else f"shape {shapes[at]}"
        return UserError(
            f"{self.env_id} gives observations of {found} {self._when(rows[at])}; its space has"
            f" {shape}"
        )

    def _ends(self, given: Sequence[Any], rows: np.ndarray, name: str) -> np.ndarray:
        """Ends of episodes [R] bool; UserError unless each is true or false, 1 or 0."""
        try:
            ends = np.array(given)
        except ValueError:  # of different shapes
            ends = np.zeros(0)
        if ends.dtype == bool and ends.shape == (len(rows),):
            return ends
        for row, one in zip(rows, given, strict=True):
            value = np.asarray(one) if _shape(one) in ((), (1,)) else np.zeros(0)
            if value.dtype.kind not in "bifu" or not np.isin(value, (0, 1)).all() or not value.size:
                raise UserError(
                    f"{self.env_id} gives a {type(one).__name__} as {name} {self._when(row)}; true"
                    " or false is needed"
                )
        return np.array([bool(np.asarray(one).reshape(())) for one in given])

    def _rewards(self, given: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        """Rewards [R] float64; an array of one number counts as that number."""
        try:
            rewards = np.array(given)
        except ValueError:  # of different shapes
            rewards = np.zeros(0)
        if rewards.shape == (len(rows),) and rewards.dtype.kind in "fiub":
            rewards = rewards.astype(np.float64)
        else:
            rewards = np.array(
                [self._reward(one, row) for one, row in zip(given, rows, strict=True)]
            )
        if not np.isfinite(rewards).all():
            at = int(np.argmin(np.isfinite(rewards)))
            raise UserError(f"{self.env_id} gives the reward {rewards[at]} {self._when(rows[at])}")
        return rewards

    def _reward(self, given: Any, row: int) -> float:
        try:
            if np.asarray(given).dtype.kind in "SU":  # "1.0" is no number
                raise TypeError
            array = np.asarray(given, np.float64)
            if array.size == 1:
                return float(array.reshape(()))
            what = f"of shape {array.shape}"
        except (TypeError, ValueError, OverflowError):
            what = f"that is a {type(given).__name__}"
        raise UserError(
            f"{self.env_id} gives a reward {what} {self._when(row)}; a number is needed"
        )

    def close(self) -> None:
        """Close all environments; UserError if one fails."""
        for env in self.envs:
            close(env, self.env_id)


def time_limit(env: Any, step_limit: int | None) -> int | None:
    """Time limit in steps, the smaller of an environment's and `step_limit`; None if none.

    An environment that ends its episodes itself may tell when by `max_episode_steps`.
    """
    itself = getattr(env.unwrapped, "max_episode_steps", None)
    limits = [env.spec.max_episode_steps if env.spec else None, itself, step_limit]
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)


def _shape(values: Any) -> tuple[int, ...] | None:
    """The shape of an array or a list; None for lists of different lengths in a list."""
    try:
        return np.shape(values)
    except ValueError:
        return None
