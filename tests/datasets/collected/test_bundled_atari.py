"""Tests of the Atari collections: whole games, independent of the workers, named as ours."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decision_seq import envs
from decision_seq.cli import main
from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.collected import bundled_atari
from decision_seq.datasets.collected.bundled_atari import COLLECTIONS, collect, play
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.store import EpisodeStore
from decision_seq.types import UserError

pytest.importorskip("ale_py")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the episodes of this process; those of workers are not affected."""
    monkeypatch.setattr(bundled_atari, "MOST_STEPS", 40)
    bundled_atari._environment.cache_clear()


class SamePool:
    """Pool that runs its jobs immediately in this process."""

    def __init__(self, workers: int) -> None: ...
    def __enter__(self) -> SamePool:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, run: Callable[..., Any], *arguments: Any) -> Future:
        done: Future = Future()
        done.set_result(run(*arguments))
        return done


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EpisodeStore:
    monkeypatch.setattr(bundled_atari, "process_pool", SamePool)
    return collect("bundled-pong", tmp_path / "pong", Size(5, "episode"), workers=1)


def test_a_collection_holds_single_frames_and_says_what_it_is(made: EpisodeStore) -> None:
    assert made.observation_shape == (4, 84, 84)
    assert (made.stack, made.choices) == (4, 6)
    assert made.header["env_id"] == "atari/Pong-v0"
    assert made.header["family"] == "atari/pong"
    assert made.reference_scores == (-20.7, 14.6)
    assert "not DQN-replay's data" in made.source
    assert made.lengths.tolist() == [40] * 5
    assert made.truncated.all()


def test_a_stored_episode_is_what_the_environment_shows(made: EpisodeStore) -> None:
    """Replaying its actions from its seed gives its frames and rewards."""
    episode = made.episode(3)
    rng = np.random.default_rng([0, 3])
    rng.random()  # the player's skill
    env = envs.make("atari/Pong-v0")
    stack, _ = env.reset(seed=int(rng.integers(2**31)))
    for frame, action, reward in zip(
        episode.observations, episode.actions, episode.rewards, strict=True
    ):
        np.testing.assert_array_equal(frame, stack[-1])
        stack, obtained, *_ = env.step(action)
        assert obtained == reward


def test_an_episode_is_a_function_of_seed_and_index() -> None:
    together = play("breakout", 7, 0, 6)  # some players press random buttons
    for index in reversed(range(6)):
        alone = play("breakout", 7, index, 1)[0]
        np.testing.assert_array_equal(together[index].observations, alone.observations)
        np.testing.assert_array_equal(together[index].actions, alone.actions)
    others = play("breakout", 8, 0, 6)
    assert any((a.actions != b.actions).any() for a, b in zip(together, others, strict=True))


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    size = Size(6, "episode")
    one, two = (
        collect("bundled-breakout", tmp_path / str(workers), size, 3, workers) for workers in (1, 2)
    )
    assert one.checksum == two.checksum
    assert one.terminated.any()
    assert np.ptp(one.returns) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", COLLECTIONS)
def test_collections_are_as_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean return of new games is within its error of the recorded one."""
    monkeypatch.undo()
    found, size = COLLECTIONS[name], Size(24, "episode")
    returns = collect(name, tmp_path / name, size, seed=1).returns
    error = found.return_std * (1 / len(returns) + 1 / found.episodes) ** 0.5
    assert abs(returns.mean() - found.return_mean) < 4 * error
    assert 0.4 < returns.std() / found.return_std < 2


def test_a_collection_is_made_once_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bundled_atari, "process_pool", SamePool)
    request = Request(Size(2, "episode"), workers=1)
    first = open_dataset("atari/bundled-breakout", request)
    monkeypatch.setattr(bundled_atari, "collect", None)
    assert open_dataset("atari/bundled-breakout", request).path == first.path
    monkeypatch.setattr(bundled_atari, "COLLECTOR", 99)
    with pytest.raises(TypeError):  # a different collector would make another store
        open_dataset("atari/bundled-breakout", request)
    assert main(["data", "list", "--source", "atari"]) == 0
    table = capsys.readouterr().out
    assert all(f"atari/{name}" in table for name in COLLECTIONS)
    assert "100,000 steps" in table


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["atari/bundled-tennis"], "atari/bundled-tennis does not exist; there are atari/bundled-"),
        (["atari/bundled-pong", "--steps", "0"], "--steps 0 must be at least 1"),
        (["atari/bundled-pong", "--workers", "0"], "workers 0"),
    ],
)
def test_what_cannot_be_collected_is_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "new"
    assert main(["data", "collect", *arguments, "--output", str(output)]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
    assert not output.exists()


def test_a_collection_without_the_emulator_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "ale_py" else find(n))
    with pytest.raises(UserError, match=r"pip install 'decision-seq\[atari\]'"):
        open_dataset("atari/bundled-pong")
