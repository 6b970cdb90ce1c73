"""Rolling a policy out: the context it sees, and the steps of many episodes together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from decision_seq.data.conditioning import Conditioning
from decision_seq.envs import Environments
from decision_seq.policies.base import Policy
from decision_seq.types import Bar, Batch, Spec, Transition


class Context:
    """The last K steps of N live episodes, held as the training windows are: padded on the right.

    The newest step of row i is at `lengths[i] - 1`; its action is not known yet and is 0, which
    no causal policy reads.
    """

    def __init__(self, count: int, context_length: int, spec: Spec) -> None:
        shape = (count, context_length)
        continuous = spec.action_kind == "continuous"
        self.observations = np.zeros((*shape, *spec.observation_shape), np.float32)
        self.actions = np.zeros(
            (*shape, spec.action_size) if continuous else shape, np.float32 if continuous else int
        )
        self.rewards = np.zeros(shape, np.float32)
        self.conditions = np.zeros((*shape, spec.condition_size), np.float32)
        self.timesteps = np.zeros(shape, np.int64)
        self.lengths = np.zeros(count, np.int64)
        self.context_length, self.max_timestep = context_length, spec.max_timestep

    def start(self, observations: np.ndarray, conditions: np.ndarray) -> None:
        """Begin every row anew at its first observation [N, ...] and condition [N, C]."""
        for array in self._arrays():
            array[:] = 0
        self.lengths[:] = 1
        self.observations[:, 0] = observations
        self.conditions[:, 0] = conditions

    def append(
        self,
        rows: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        observations: np.ndarray,
        conditions: np.ndarray,
    ) -> None:
        """Complete the newest step of `rows` with its action and reward, and open the next."""
        newest = self.lengths[rows] - 1
        self.actions[rows, newest] = actions
        self.rewards[rows, newest] = rewards
        timesteps = np.minimum(self.timesteps[rows, newest] + 1, self.max_timestep - 1)
        full = rows[self.lengths[rows] == self.context_length]
        for array in self._arrays():
            array[full, :-1] = array[full, 1:]
        self.lengths[rows] = np.minimum(self.lengths[rows] + 1, self.context_length)
        newest = self.lengths[rows] - 1
        self.observations[rows, newest] = observations
        self.conditions[rows, newest] = conditions
        self.timesteps[rows, newest] = timesteps
        self.actions[rows, newest] = 0
        self.rewards[rows, newest] = 0

    def newest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Conditions [R, C] and timesteps [R] of the newest step of `rows`."""
        newest = self.lengths[rows] - 1
        return self.conditions[rows, newest], self.timesteps[rows, newest]

    def batch(self, rows: np.ndarray) -> Batch:
        """The contexts of `rows` as a numpy Batch, no longer than the longest of them."""
        length = int(self.lengths[rows].max())
        observations, actions, rewards, conditions, timesteps = (
            array[rows, :length] for array in self._arrays()
        )
        mask = np.arange(length) < self.lengths[rows][:, None]
        return Batch(observations, actions, rewards, conditions, timesteps, mask)

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.observations, self.actions, self.rewards, self.conditions, self.timesteps


@torch.inference_mode()
def rollout(
    policy: Policy,
    conditioning: Conditioning,
    context_length: int,
    environments: Environments,
    targets: np.ndarray,
    seeds: Sequence[int],
    bar: Bar | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One episode a target and seed, all advanced together -> returns [N], lengths [N].

    targets: [N] raw returns; bar: is told of every episode that ends.
    """
    policy.eval()
    device = next(policy.parameters()).device
    context = Context(len(seeds), context_length, policy.spec)
    observations = environments.reset(seeds)
    context.start(observations, conditioning.prompt(targets))
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    state = None
    while environments.running.any():
        rows = np.flatnonzero(environments.running)
        actions, state = policy.act(context.batch(rows).tensors(device), state)
        chosen = actions.cpu().numpy()
        following, rewards, _, _ = environments.step(rows, chosen)
        transition = Transition(observations[rows], chosen, rewards, following)
        conditions, timesteps = context.newest(rows)
        conditions = conditioning.advance(conditions, targets[rows], transition, timesteps)
        context.append(rows, chosen, rewards, following, conditions)
        observations[rows] = following
        returns[rows] += rewards
        lengths[rows] += 1
        if bar is not None:
            bar.update(len(rows) - int(environments.running.sum()))
    return returns, lengths
