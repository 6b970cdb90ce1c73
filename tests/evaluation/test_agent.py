"""Tests of Agent: a policy acts alike in one's own loop and in `evaluate` (invariant 13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

from decision_seq.config import read_yaml, save_text
from decision_seq.evaluation import evaluate_checkpoint
from decision_seq.evaluation.agent import Agent
from decision_seq.policies import PolicyConfig
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Spec, UserError
from tests.conftest import OBSERVATION, seal

SEED = 10_000
MakeCheckpoint = Callable[..., Path]


def accepted(config: type[PolicyConfig]) -> str:
    """The policy's conditioning: by return where it takes one."""
    known = Conditioning.get_known_choices()
    fitting = [name for name, cls in sorted(known.items()) if config.accepts(cls.fields)]
    return next((name for name in ("return", "outcome") if name in fitting), fitting[0])


def saved(make: MakeCheckpoint, spec: Spec, name: str, **settings: Any) -> Path:
    """A checkpoint of a small policy of the registry."""
    config = PolicyConfig.get_choice_class(name)
    given = {"goal": {"goal": (0.0,) * OBSERVATION}}
    chosen = accepted(config)
    scaled = {"return": {"scale": 1000.0}, **given}.get(chosen, {})
    conditioning = Conditioning.get_choice_class(chosen)(**scaled)
    made = config(context_length=5, **config.example, **settings)
    sizes = {"condition_size": conditioning.size, "discount": conditioning.discount}
    return make(made, conditioning, replace(spec, **sizes))


def own_loop(
    agent: Agent, episodes: int, limit: int | None = None
) -> tuple[list[float], list[int]]:
    """Returns and lengths of the agent's episodes, as a user would roll them out."""
    env = gymnasium.make("Hopper-v4", max_episode_steps=limit)
    returns, lengths = [], []
    for index in range(episodes):
        observation, _ = env.reset(seed=SEED + index)
        agent.reset()
        total, steps, over = 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            agent.observe(reward)
            over = terminated or truncated
            total, steps = total + float(reward), steps + 1
        returns.append(total)
        lengths.append(steps)
    env.close()
    return returns, lengths


# Without a limit an episode has some 25 steps, each of which plans where the policy does.
LENGTHS = [pytest.param(9, 7, id="short"), pytest.param(20, None, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("episodes", "limit"), LENGTHS)
@pytest.mark.parametrize("name", sorted(PolicyConfig.get_known_choices()))
def test_an_agent_repeats_evaluate_to_the_bit(
    make_checkpoint: MakeCheckpoint, spec: Spec, name: str, episodes: int, limit: int | None
) -> None:
    path = saved(make_checkpoint, spec, name)
    asked = {"episodes": episodes, "seed": SEED, "max_episode_steps": limit}
    scores = evaluate_checkpoint(path, workers=1, **asked).targets[0]
    assert own_loop(Agent.load(path), episodes, limit) == (scores.returns, scores.lengths)
    assert len(set(scores.returns)) == episodes  # the episodes differ


def test_drawn_actions_repeat_too(make_checkpoint: MakeCheckpoint, spec: Spec) -> None:
    path = saved(make_checkpoint, spec, "dt", head="stochastic")
    asked = {"targets": ["max"], "episodes": 9, "seed": SEED}
    scores = evaluate_checkpoint(path, workers=1, temperature=1.0, **asked).targets[0]
    agent = Agent.load(path, "max", temperature=1.0)
    assert own_loop(agent, 9) == (scores.returns, scores.lengths)
    assert agent.target == scores.target == 1000.0
    agent = Agent.load(path, "max", temperature=0.5)
    assert own_loop(agent, 1)[0] != scores.returns[:1]


@pytest.mark.parametrize("count", [4, 16])
def test_many_environments_repeat_evaluate(make_checkpoint: MakeCheckpoint, count: int) -> None:
    """Each environment begins its next episode when its last one ends."""
    path = make_checkpoint()
    episodes = count + 4
    scores = evaluate_checkpoint(path, episodes=episodes, seed=SEED, workers=1).targets[0]
    agent = Agent.load(path, environments=count)
    envs = [gymnasium.make("Hopper-v4") for _ in range(count)]
    agent.reset()
    assert agent.seed == [SEED + index for index in range(count)]
    seen = np.stack([e.reset(seed=s)[0] for e, s in zip(envs, agent.seed, strict=True)])
    totals, found = np.zeros(count), {}
    while any(SEED + index not in found for index in range(episodes)):
        results = [e.step(action) for e, action in zip(envs, agent.act(seen), strict=True)]
        totals += [result[1] for result in results]
        ended = np.array([result[2] or result[3] for result in results])
        seeds = agent.seed
        agent.observe([result[1] for result in results], ended)
        for row, result in enumerate(results):
            seen[row] = result[0]
            if ended[row]:
                found[seeds[row]] = totals[row]
                totals[row] = 0.0
                seen[row] = envs[row].reset(seed=agent.seed[row])[0]
    assert [found[SEED + index] for index in range(episodes)] == scores.returns


def test_delayed_rewards_are_withheld(make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint()
    tree = read_yaml(path / "config.yaml")
    tree["data"]["delayed"] = True
    save_text(path / "config.yaml", yaml.safe_dump(tree))
    seal(path)
    scores = evaluate_checkpoint(path, episodes=8, seed=SEED, workers=1).targets[0]
    assert own_loop(Agent.load(path), 8) == (scores.returns, scores.lengths)


def test_targets_and_seeds(make_checkpoint: MakeCheckpoint) -> None:
    agent = Agent.load(make_checkpoint())
    assert agent.target == 3600.0
    agent.reset(target="median", seed=5)
    assert (agent.target, agent.seed) == (500.0, 5)
    agent.reset()
    assert (agent.target, agent.seed) == (3600.0, SEED + 1)
    many = Agent.load(agent.loaded.path, 100.0, environments=3)
    many.reset([1.0, "max", 3.0], seed=7)
    assert (many.target, many.seed) == ([1.0, 1000.0, 3.0], [7, 8, 9])
    many.reset(seed=[4], rows=[1])
    assert (many.target, many.seed) == ([1.0, 100.0, 3.0], [7, 4, 9])


WRONG: dict[str, tuple[Callable[[Agent], Any], str]] = {
    "no reset": (lambda agent: agent.act(np.zeros(OBSERVATION)), "was not reset"),
    "no reward": (
        lambda agent: [agent.reset(), *(agent.act(np.zeros(OBSERVATION)) for _ in range(2))],
        "act() was called twice",
    ),
    "no action": (lambda agent: [agent.reset(), agent.observe(1.0)], "without an action"),
    "shape": (lambda agent: [agent.reset(), agent.act(np.zeros(5))], "observations of shape (5,)"),
    "nan": (
        lambda agent: [agent.reset(), agent.act(np.full(OBSERVATION, np.nan))],
        "an observation holds NaN",
    ),
    "reward": (
        lambda agent: [
            agent.reset(),
            agent.act(np.zeros(OBSERVATION)),
            agent.observe([1.0, 2.0]),
        ],
        "1 finite number(s) are needed",
    ),
    "target": (lambda agent: agent.reset("best"), "'best' is no return"),
    "targets": (lambda agent: agent.reset([1.0, 2.0]), "2 targets for 1 environments"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_named(make_checkpoint: MakeCheckpoint, case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(UserError) as failed:
        call(Agent.load(make_checkpoint()))
    assert message in str(failed.value)


def test_spaces_convert_observations_and_actions(make_checkpoint: MakeCheckpoint) -> None:
    """A Dict of observations, and actions of another shape, in one environment and in several."""

    class Odd(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            a=gymnasium.spaces.Box(-9, 9, (4,)), b=gymnasium.spaces.Box(-9, 9, (7,))
        )
        action_space = gymnasium.spaces.Box(-1, 1, (3, 1))

    path = make_checkpoint()
    seen = np.linspace(0, 1, OBSERVATION, dtype=np.float32)
    plain, odd = Agent.load(path), Agent.load(path, env=Odd())
    plain.reset()
    odd.reset()
    action = odd.act({"a": seen[:4], "b": seen[4:]})
    assert action.shape == (3, 1)
    np.testing.assert_array_equal(action[:, 0], plain.act(seen))
    many = Agent.load(path, environments=2, env=Odd())
    many.reset()
    both = many.act({"a": np.stack([seen[:4]] * 2), "b": np.stack([seen[4:]] * 2)})
    np.testing.assert_array_equal(both[0], action)

    class Other(Odd):
        action_space = gymnasium.spaces.Discrete(3)

    with pytest.raises(UserError, match="the policy gives 3 continuous"):
        Agent.load(path, env=Other())
