"""Tests of reading DQN-replay logs of games played here: stacks equal those of the environment."""

from pathlib import Path

import numpy as np
import pytest
import torch

from decision_seq import envs
from decision_seq.datasets.dqn_replay.reader import read
from decision_seq.models.encoders import ImageConfig
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Episode
from tests.datasets.dqn_replay.test_dqn_replay import padded, write_shard

pytest.importorskip("ale_py")
SHARDS, ROWS, PADDING = 4, 300, 3


@pytest.fixture(scope="module")
def game() -> tuple[list[Episode], list[np.ndarray]]:
    """Several games of Breakout with random actions, the last one cut.

    Returns their frames and the stacks [T, 4, 84, 84] of the environment.
    """
    env = envs.make("atari/Breakout-v0")
    rng = np.random.default_rng(0)
    episodes, stacks, rows = [], [], SHARDS * ROWS
    while rows > PADDING:
        rows -= PADDING
        seen, actions, rewards, ended = [env.reset(seed=len(episodes))[0]], [], [], False
        while not ended and len(actions) < rows:
            actions.append(int(rng.integers(env.action_space.n)))
            stack, reward, ended, _, _ = env.step(actions[-1])
            seen.append(stack)
            rewards.append(reward)
        stacks.append(np.stack(seen[:-1]))
        frames = stacks[-1][:, -1]
        episodes.append(Episode(frames, np.array(actions), np.array(rewards), ended, False))
        rows -= len(actions)
    return episodes, stacks


def test_every_stack_is_the_one_that_the_environment_showed(
    game: tuple[list[Episode], list[np.ndarray]], tmp_path: Path
) -> None:
    """From an episode's first step; after a shard's cut, missing frames are zeros."""
    episodes, stacks = game
    assert sum(episode.terminated for episode in episodes) >= 3
    logs = tmp_path / "Breakout" / "1" / "replay_logs"
    stream = write_shard(tmp_path / "whole", 0, padded(episodes), tail=not episodes[-1].terminated)
    for shard in range(SHARDS):
        cut = slice(shard * ROWS, (shard + 1) * ROWS)
        write_shard(logs, shard, episodes, **{name: rows[cut] for name, rows in stream.items()})
    real = np.concatenate(
        [np.concatenate([np.zeros(PADDING, bool), np.ones(len(e), bool)]) for e in episodes]
    )
    kept = np.flatnonzero(real)
    store = read(logs, tmp_path / "store")
    np.testing.assert_array_equal(
        store.columns["observations"].rows(0, len(kept)), stream["observation"][kept]
    )
    for name in ("action", "reward"):
        np.testing.assert_array_equal(store.columns[f"{name}s"].array, stream[name][kept])
    ends = np.zeros(len(kept))
    ends[store.offsets[1:] - 1] = store.terminated
    np.testing.assert_array_equal(ends, stream["terminal"][kept])

    expected = np.concatenate(stacks)
    cuts = [row for row in store.offsets[1:-1] if not stream["terminal"][kept[row - 1]]]
    assert len(cuts) == SHARDS - 1
    for row in cuts:
        for step in range(PADDING):
            expected[row + step, : PADDING - step] = 0
    gatherer = WindowGatherer(store, label(store, ReturnToGo(1.0)), 8, 27_000)
    encoder = ImageConfig((1, 1, 1)).build((4, 84, 84), 1)
    shown: list[torch.Tensor] = []
    encoder.convolutions[0].register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    for ids in np.array_split(np.arange(len(kept)), 40):
        batch = gatherer.gather(ids)
        with torch.no_grad():
            encoder(torch.as_tensor(batch.observations))
        made = (shown.pop() * 255).round().byte().numpy().reshape(*batch.mask.shape, 4, 84, 84)
        rows = (ids[:, None] + gatherer.steps)[batch.mask]
        np.testing.assert_array_equal(made[batch.mask], expected[rows])
