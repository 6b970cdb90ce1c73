"""Tests of writing a dataset of one's own: failures midway, replacement, many episodes."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import decision_seq as ds
from decision_seq.types import UserError


def episode(length: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(length, 4)),
        "actions": rng.uniform(-1, 1, (length, 2)),
        "rewards": np.ones(length),
        "terminated": True,
    }


@pytest.mark.parametrize("failure", [RuntimeError("my simulator broke"), KeyboardInterrupt()])
def test_a_generator_that_fails_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield episode(5)
        raise failure

    with pytest.raises(type(failure)):
        ds.write_dataset(tmp_path / "new", broken())
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_replaced_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    ds.write_dataset(path, [episode(5)])
    with pytest.raises(UserError, match=r"mine holds a dataset; name another path, or give repl"):
        ds.write_dataset(path, iter([episode(7)]))
    with pytest.raises(UserError, match="episode 1"):
        ds.write_dataset(path, [episode(7), {}], replace=True)
    assert ds.open_dataset(path).num_transitions == 5  # until the new one is complete
    assert ds.write_dataset(path, [episode(7)], replace=True).num_transitions == 7
    assert repr(ds.open_dataset(path)) == f"EpisodeStore('{path}': 1 episodes, 7 transitions)"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is in the way and no episode store"):
        ds.write_dataset(tmp_path / "other", [episode(5)], replace=True)


def test_observations_may_be_a_list_of_steps(tmp_path: Path) -> None:
    """A Dict space's observations, as an environment gives them one by one."""

    class Pick(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            place=gymnasium.spaces.Box(-9, 9, (2,)), kind=gymnasium.spaces.Discrete(3)
        )
        action_space = gymnasium.spaces.Discrete(4, start=1)

    gymnasium.register("TestPick-v0", Pick, max_episode_steps=5)
    try:
        steps = [{"place": np.float32([t, -t]), "kind": t % 3} for t in range(6)]
        given = {"actions": [1, 4, 2, 3, 1], "rewards": np.ones(5), "truncated": True}
        listed = ds.write_dataset(
            tmp_path / "listed", [{**given, "observations": steps}], env_id="TestPick-v0"
        )
        entries = {key: np.array([step[key] for step in steps]) for key in steps[0]}
        by_entry = ds.write_dataset(
            tmp_path / "by entry", [{**given, "observations": entries}], env_id="TestPick-v0"
        )
    finally:
        gymnasium.registry.pop("TestPick-v0")
    np.testing.assert_array_equal(
        listed.episode(0).observations[:4, 2:], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    )
    assert listed.checksum == by_entry.checksum
    assert listed.header["first_choice"] == 1


def test_many_episodes_take_little_memory(tmp_path: Path) -> None:
    """1,000 episodes of 29 MB in all, one at a time."""
    ds.write_dataset(tmp_path / "few", [episode(900)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = ds.write_dataset(tmp_path / "many", (episode(900, seed) for seed in range(1000)))
    assert many.num_episodes == 1000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 10_000  # KiB
