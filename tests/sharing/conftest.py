"""Fixtures: a checkpoint with large weights, and real episodes for comparing actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from decision_seq.checkpoint import Loaded
from decision_seq.envs import Environments
from decision_seq.evaluation.context import Context, StepBuffer
from decision_seq.types import Batch, Transition
from tests.conftest import FACTS, K

__all__ = ["FACTS", "K", "compare", "episode"]


def trimmed(batch: Batch) -> Batch:
    """The single row of a batch as numpy arrays, without padding."""
    length = int(batch.lengths[0])
    known = {name: array for name, array in vars(batch).items() if array is not None}
    return Batch(**{name: array[:, :length].numpy().copy() for name, array in known.items()})


@torch.inference_mode()
def episode(loaded: Loaded, seed: int = 3) -> Iterator[tuple[Batch, np.ndarray]]:
    """Every step of a whole Hopper episode: the context and the actions of `loaded`.

    The executed actions are scaled down.
    """
    policy = loaded.policy.eval()
    environments = Environments("Hopper-v4", 1)
    row, targets = np.array([0]), np.array([3600.0])
    cpu = torch.device("cpu")
    size = policy.spec.observation_shape[0]
    context = Context(1, loaded.policy_config.context_length, policy.spec, size)
    buffer = StepBuffer(1, policy.spec, cpu)
    buffer.observations[:] = environments.reset([seed])
    buffer.conditions[:] = loaded.conditioning.prompt(targets)
    buffer.fresh[:] = 1
    actions, timestep = torch.zeros(1, policy.spec.action_size), 0
    while environments.running.any():
        context.advance(actions, *buffer.on(cpu))
        batch = trimmed(context.batch())
        chosen = policy.act(batch.tensors())[0].numpy()
        yield batch, chosen
        chosen = chosen * np.float32(0.3)  # with random weights Hopper falls early
        before = buffer.observations.copy()
        following, rewards, _, _ = environments.step(row, chosen)
        transition = Transition(before, chosen, rewards, following)
        buffer.conditions[:] = loaded.conditioning.advance(
            buffer.conditions, targets, transition, np.array([timestep])
        )
        buffer.observations[:], buffer.rewards[:], buffer.fresh[:] = following, rewards, 0
        actions, timestep = torch.tensor(chosen), timestep + 1
    environments.close()


def compare(loaded: Loaded, act: Callable[[Batch], np.ndarray], steps_at_least: int = 2 * K) -> int:
    """Compare `act` with `loaded` over an episode longer than the context -> its length."""
    seen = []
    for batch, ours in episode(loaded):
        np.testing.assert_allclose(act(batch), ours, rtol=0, atol=1e-5)
        seen.append(ours[0])
    assert len(seen) >= steps_at_least
    assert np.std(seen, axis=0).min() > 0.01  # the actions vary
    return len(seen)
