"""Agent: a trained policy in anybody's own loop.

    agent = Agent.load("runs/mine", target=3600)
    observation, _ = env.reset(seed=0)
    agent.reset()
    ended = False
    while not ended:
        action = agent.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
        agent.observe(reward)

In a vector of environments, which begin their next episodes by themselves:

    envs = gymnasium.make_vec("Hopper-v4", num_envs=8)
    agent = Agent.load("runs/mine", target=3600, env=envs)
    observations, _ = envs.reset(seed=0)
    agent.reset()
    for _ in range(1000):
        observations, rewards, terminated, truncated, _ = envs.step(agent.act(observations))
        agent.observe(rewards, terminated | truncated)

Its actions are those of `evaluate`: the n-th episode of an agent acts as episode n of an evaluation
at the same target, to the bit on a CPU, where the environment is seeded alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from decision_seq.checkpoint import Loaded, load
from decision_seq.evaluation.checkpoints import compute_device, configured
from decision_seq.evaluation.episode_rows import EpisodeRows
from decision_seq.evaluation.own_environment import OwnEnvironment
from decision_seq.evaluation.protocol import DTYPES, EvaluationConfig
from decision_seq.evaluation.targets import Target, check_targets, resolve
from decision_seq.machine.files import as_path
from decision_seq.types import Reporter, UserError

Observation = Any  # an array [...], or an entry of a Dict or Tuple space where `env` is given


class Agent:
    """A policy that acts in one environment, or in N of them together.

    With one environment, observations, actions and rewards are those of that environment. With N,
    each has a leading axis [N], as in Gymnasium's vector environments.

    loaded: the checkpoint. settings: temperature, precision, seed, and targets, of which the first
    is the default target. environments: N; None for one environment without a leading axis, or for
    the number in `env`. env: an environment, or a vector of them, whose spaces convert observations
    and actions; needed where they are no plain vectors or choices, such as a Dict. A vector also
    says by its `autoreset_mode` when it begins the next episodes, see `observe`.

    On a CPU, N has to divide 8 or be a multiple of it to repeat `evaluate` to the bit, else the
    actions may differ by rounding. UserError for a wrong order of calls or for unfit shapes.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: EvaluationConfig,
        environments: int | None = None,
        env: Any = None,
    ) -> None:
        self._environment = OwnEnvironment.of(env, environments, loaded.policy.spec)
        count = self._environment.count or 1
        self.loaded, self.count = loaded, count
        self.batched = self._environment.count is not None
        self._rows = EpisodeRows(
            loaded.policy,
            loaded.conditioning,
            loaded.policy_config.context_length,
            count,
            DTYPES[settings.precision],
            settings.temperature,
        )
        self._seed = settings.seed
        self._default = self._resolved(settings.targets[0]) if settings.targets else None
        self._numbers = np.arange(count) - count  # of the last episode begun, see `reset`
        self._row = np.zeros(count, np.int64)
        self._asked: list[Target | None] = [None] * count  # None: the default
        self._targets: list[float | None] = [self._default] * count
        self._seeds = [0] * count
        self._begins = np.ones(count, bool)  # the next observation is an episode's first
        self._ready = np.zeros(count, bool)  # `reset` was called
        self._over = np.zeros(count, bool)  # its environment begins the next episode in this step
        self._acted = False
        self._taken = np.zeros(len(self._rows), bool)
        self._last: np.ndarray | None = None  # the last actions of all rows
        self._rewards: np.ndarray | None = None

    @classmethod
    def load(
        cls,
        path: os.PathLike[str] | str,
        target: Target | None = None,
        *,
        environments: int | None = None,
        env: Any = None,
        device: str | None = None,
        temperature: float | None = None,
        precision: str | None = None,
        planner: dict[str, Any] | None = None,
        reporter: Reporter | None = None,
    ) -> Agent:
        """An agent of a run's newest checkpoint, of one of its checkpoints, or of a policy at hand.

        target: raw return, or `max`, `median`, `q0` to `q100` of the data's returns; by default
        the first of the run's. device: by default CUDA where available. temperature, precision,
        planner: by default the run's. UserError when the checkpoint is absent or damaged.
        """
        folder = as_path(path, "the run")
        loaded = load(folder, compute_device(device), planner, reporter)
        targets = None
        if target is not None:
            check_targets([target], "target")
            targets = [target if isinstance(target, str) else float(target)]
        settings = configured(
            loaded, folder, targets=targets, temperature=temperature, precision=precision
        )
        return cls(loaded, settings, environments, env)

    @property
    def target(self) -> float | list[float | None] | None:
        """The raw return that the agent is asked for; a list of N if it acts in N environments."""
        return list(self._targets) if self.batched else self._targets[0]

    @property
    def seed(self) -> int | list[int]:
        """Seed of the current episode's drawn actions, and of its environment in `evaluate`."""
        return list(self._seeds) if self.batched else self._seeds[0]

    def reset(
        self,
        target: Target | Sequence[Target | None] | None = None,
        seed: int | Sequence[int] | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Begin an episode in every environment, or in those of `rows`, at the next `act`.

        target: see `load`; one for all or one for each; None for the agent's own. seed: of the
        drawn actions; the i-th of N environments takes seed + i. By default the run's evaluation
        seed plus the number of the episode, as in `evaluate`. rows: indices, or a mask [N].
        """
        chosen = self._chosen(rows)
        targets = _each(target, len(chosen), "targets")
        seeds = [_whole(value, "seed") for value in _each(seed, len(chosen), "seeds")]
        for place, (index, own) in enumerate(zip(chosen, targets, strict=True)):
            self._taken[self._row[index]] = False
            self._numbers[index] += self.count
            number = int(self._numbers[index])
            self._asked[index] = own
            self._targets[index] = self._default if own is None else self._resolved(own)
            chosen_seed = seeds[place]
            if chosen_seed is None:
                self._seeds[index] = self._seed + number
            else:
                self._seeds[index] = chosen_seed + (0 if _listed(seed) else place)
            self._row[index] = self._row_of(int(index), number)
            self._begins[index] = self._ready[index] = True
            self._over[index] = False
        if len(chosen) == self.count:
            self._acted = False

    def act(self, observation: Observation) -> Any:
        """The action for an observation, in the environment's own form and units.

        observation: the environment's, [...]; [N, ...] for N environments, whose actions are then
        [N, ...] too.
        """
        if not self._ready.all():
            raise UserError("the agent was not reset; call reset() when an episode begins")
        if self._acted:
            raise UserError("act() was called twice; call observe(reward) after each step")
        seen = self._environment.observations(
            observation, self.loaded.policy.spec.observation_shape
        )
        begins = self._begins
        self._advance(np.flatnonzero(~begins), seen)
        for index in np.flatnonzero(begins):
            row = int(self._row[index])
            self._rows.begin(row, seen[index], self._targets[index], self._seeds[index])
            self._taken[row] = True
        begins[:] = False
        self._last = self._rows.act(self._taken).copy()
        self._acted = True
        return self._environment.given(self._last[self._row])

    def observe(self, reward: Any, ended: Any = None) -> None:
        """Record the rewards of the last actions.

        reward: a number, or [N]. ended: whether the episode ended, or [N] bool: those episodes are
        over, and the agent begins others at the same target. The next observation is their first
        one; with `env` a vector of environments under NEXT_STEP autoreset, the one after it is.
        Without `ended`, the episodes go on until `reset`.
        """
        if not self._acted:
            raise UserError("observe() was called without an action; call act(observation) first")
        rewards = _numbers(reward)
        if rewards is None or rewards.shape != (self.count,) or not np.isfinite(rewards).all():
            raise UserError(f"rewards {reward!r}: {self.count} finite number(s) are needed")
        over = np.zeros(self.count, bool) if ended is None else np.asarray(ended).reshape(-1)
        if over.dtype != bool or over.shape != (self.count,):
            raise UserError(f"ended {ended!r}: {self.count} true or false is needed")
        autoreset = self._environment.autoreset
        if ended is None and autoreset != "disabled":
            raise UserError(
                "these environments begin episodes by themselves; call observe(rewards, terminated"
                " | truncated)"
            )
        # Delayed rewards come with the last step of an episode, after which it does not act.
        self._rewards = np.zeros(self.count) if self.loaded.facts.delayed else rewards
        self._acted = False
        begun = over
        if autoreset == "next step":
            begun, over = self._over.copy(), over & ~self._over
            self._taken[self._row[over]] = False
            self._over |= over
        indices = np.flatnonzero(begun)
        if len(indices):
            self.reset([self._asked[i] for i in indices], rows=indices)

    def _advance(self, indices: np.ndarray, seen: np.ndarray) -> None:
        """Complete the steps of the environments whose episodes go on."""
        if len(indices) == 0:
            return
        assert self._last is not None
        assert self._rewards is not None
        rows = self._row[indices]
        self._rows.advance(rows, self._last[rows], self._rewards[indices], seen[indices])

    def _row_of(self, index: int, number: int) -> int:
        """The row of an episode, which is `evaluate`'s where the number of environments allows.

        There, episode i is in row i % SLOTS of a policy batch.
        """
        rows = self._rows.batch_rows
        if self._rows.device.type != "cpu" or (rows % self.count and self.count % rows):
            return index
        return index // rows * rows + number % rows

    def _chosen(self, rows: Any) -> np.ndarray:
        if rows is None:
            return np.arange(self.count)
        given = np.asarray(rows)
        numbers = given.dtype.kind in "iu" or not given.size
        whole = numbers and ((given >= 0) & (given < self.count)).all()
        if not (whole or (given.dtype == bool and given.shape == (self.count,))):
            raise UserError(
                f"rows {rows!r}: give indices from 0 to {self.count - 1}, or a mask [{self.count}]"
            )
        return np.flatnonzero(given) if given.dtype == bool else given.reshape(-1).astype(np.int64)

    def _resolved(self, target: Target) -> float | None:
        """A target as a raw return; None for a policy without a target."""
        if not self.loaded.conditioning.asks:
            return None
        check_targets([target], "target")
        return resolve([target], self.loaded.facts.return_percentiles)[0]


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _each(value: Any, count: int, what: str) -> list[Any]:
    """A value for each of N environments."""
    if not _listed(value):
        return [value] * count
    if len(value) != count:
        raise UserError(f"{len(value)} {what} for {count} environments; give one for each")
    return list(value)


def _whole(value: Any, what: str) -> int | None:
    """A whole number that is not negative, or None; UserError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise UserError(f"{what} {value!r} is no whole number of at least 0")
    return int(value)


def _numbers(value: Any) -> np.ndarray | None:
    """Numbers as an array [N]; None for anything else."""
    try:
        return np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
