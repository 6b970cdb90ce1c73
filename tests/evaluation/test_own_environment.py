"""Tests of agents in Gymnasium's vector environments, under every autoreset mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from decision_seq.evaluation.agent import Agent
from decision_seq.types import UserError
from tests.conftest import ACTION, OBSERVATION

MakeCheckpoint = Callable[..., Path]
COUNT, STEPS = 4, 40
# One episode's (observation, action, reward) of every step.
Steps = list[tuple[np.ndarray, np.ndarray, float]]


class Counting(gymnasium.Env):
    """An environment of random observations, whose episodes differ in length."""

    observation_space = gymnasium.spaces.Box(-9, 9, (OBSERVATION,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)

    def __init__(self, number: int) -> None:
        self.number, self.episodes, self.played = number, 0, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = 3 + (self.number + self.episodes) % 4
        self.episodes += 1
        self.seen = self.np_random.normal(size=OBSERVATION).astype(np.float32)
        self.played.append([])
        return self.seen, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(self.seen.sum() + action.sum())
        self.played[-1].append((self.seen, action.copy(), reward))
        self.seen = self.np_random.normal(size=OBSERVATION).astype(np.float32)
        self.left -= 1
        return self.seen, reward, self.left == 0, False, {}


def vector(mode: AutoresetMode) -> SyncVectorEnv:
    makers = [lambda number=number: Counting(number) for number in range(COUNT)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def replayed(path: Path, number: int, episodes: list[Steps]) -> Iterator[tuple[Any, Any]]:
    """The actions of a row's episodes, and those of a vector without autoreset at the same data."""
    agent = Agent.load(path, environments=COUNT)
    agent.reset()
    for steps in episodes:
        for place, (seen, action, reward) in enumerate(steps):
            yield action, agent.act(np.stack([seen] * COUNT))[number]
            over = np.arange(COUNT) == number
            agent.observe([reward] * COUNT, over & (place == len(steps) - 1))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_every_episode_begins_with_its_first_observation(
    make_checkpoint: MakeCheckpoint, mode: AutoresetMode
) -> None:
    path = make_checkpoint()
    envs = vector(mode)
    agent = Agent.load(path, env=envs)
    seen, _ = envs.reset(seed=3)
    agent.reset()
    for _ in range(STEPS):
        seen, rewards, terminated, truncated, _ = envs.step(agent.act(seen))
        over = terminated | truncated
        agent.observe(rewards, over)
        if mode == AutoresetMode.DISABLED and over.any():
            seen, _ = envs.reset(options={"reset_mask": over})
    for number, env in enumerate(envs.envs):
        begun = [steps for steps in env.unwrapped.played if steps]
        assert len(begun) >= 6
        pairs = list(replayed(path, number, begun))
        np.testing.assert_array_equal(*map(np.stack, zip(*pairs, strict=True)))
        assert agent.seed[number] == 10_000 + number + COUNT * (env.unwrapped.episodes - 1)
    assert len({float(pair[0][0]) for pair in pairs}) > STEPS / 2  # the actions vary


def test_a_reset_by_the_user_ends_the_wait(make_checkpoint: MakeCheckpoint) -> None:
    """After `reset`, the next observation is the first also where an episode had just ended."""
    path = make_checkpoint()
    agent = Agent.load(path, env=vector(AutoresetMode.NEXT_STEP))
    fresh = Agent.load(path, env=vector(AutoresetMode.NEXT_STEP))
    seen = np.ones((COUNT, OBSERVATION), np.float32)
    agent.reset()
    agent.act(seen)
    agent.observe(np.ones(COUNT), np.ones(COUNT, bool))
    agent.reset()
    fresh.reset()
    np.testing.assert_array_equal(agent.act(2 * seen), fresh.act(2 * seen))
    agent.observe(np.ones(COUNT), np.zeros(COUNT, bool))
    fresh.observe(np.ones(COUNT), np.zeros(COUNT, bool))
    np.testing.assert_array_equal(agent.act(seen), fresh.act(seen))


def test_a_vector_that_does_not_fit_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    path, envs = make_checkpoint(), vector(AutoresetMode.SAME_STEP)
    with pytest.raises(UserError, match="SyncVectorEnv has 4 environments, not 3"):
        Agent.load(path, env=envs, environments=3)
    assert Agent.load(path, env=envs, environments=4).count == 4
    agent = Agent.load(path, env=envs)
    agent.reset()
    agent.act(np.zeros((COUNT, OBSERVATION)))
    with pytest.raises(UserError, match=r"call observe\(rewards, terminated \| truncated\)"):
        agent.observe(np.zeros(COUNT))
    envs.metadata = {}
    with pytest.raises(UserError, match="does not say when it begins the next episodes"):
        Agent.load(path, env=envs)
    with pytest.raises(UserError, match="an agent for 'four' environments"):
        Agent.load(path, environments="four")


WRONG: dict[str, tuple[Callable[[Agent], Any], str]] = {
    "rows beyond": (lambda agent: agent.reset(rows=[4]), "rows [4]: give indices from 0 to 3"),
    "short mask": (lambda agent: agent.reset(rows=[True]), "rows [True]: give indices from 0 to 3"),
    "seed": (lambda agent: agent.reset(seed="x"), "seed 'x' is no whole number of at least 0"),
    "negative": (lambda agent: agent.reset(seed=-1), "seed -1 is no whole number of at least 0"),
    "rewards": (lambda agent: agent.observe("x"), "rewards 'x': 4 finite number(s) are needed"),
    "ended": (lambda agent: agent.observe([0.0] * 4, "no"), "ended 'no': 4 true or false"),
    "numbers": (lambda agent: agent.observe([0.0] * 4, [0, 1, 0, 0]), "4 true or false is needed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_of_an_agent_is_named(make_checkpoint: MakeCheckpoint, case: str) -> None:
    call, message = WRONG[case]
    agent = Agent.load(make_checkpoint(), environments=COUNT)
    agent.reset()
    agent.act(np.zeros((COUNT, OBSERVATION)))
    with pytest.raises(UserError) as failed:
        call(agent)
    assert message in str(failed.value)
    agent.reset(rows=[])  # none
    agent.reset(rows=np.array([True, False, False, True]))
