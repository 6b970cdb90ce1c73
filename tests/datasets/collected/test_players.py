"""Tests of the Atari players: memory agrees with the screen, and skill decides the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decision_seq import envs
from decision_seq.datasets.collected.players import Paddle, Skilled, bounced

pytest.importorskip("ale_py")

Play = Callable[[str, float, int, int], float]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Function that plays an episode of at most `steps` steps -> its return."""
    # Frames are not needed here and would take a third of the time.
    monkeypatch.setattr("decision_seq.envs.atari.Atari._observe", lambda env: env.frames)

    def played(game: str, skill: float, seed: int, steps: int) -> float:
        env = envs.make(f"atari/{game.title()}-v0", max_episode_steps=steps)
        player = Skilled(game, skill, int(env.action_space.n), np.random.default_rng(seed))
        env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(player.act(env.unwrapped.ale.getRAM()))
            total, over = total + reward, terminated or truncated
        return total

    return played


def test_skill_decides_pong(play: Play) -> None:
    assert play("pong", 1.0, 0, 400) >= 4
    assert play("pong", 0.5, 0, 400) <= -2
    assert play("pong", 0.0, 0, 400) <= -6


def test_skill_decides_breakout(play: Play) -> None:
    assert play("breakout", 1.0, 1, 600) > 30
    assert play("breakout", 0.0, 0, 600) < 8


@pytest.mark.slow
def test_a_perfect_player_wins_whole_games(play: Play) -> None:
    assert min(play("pong", 1.0, seed, 3000) for seed in range(3)) >= 19
    assert min(play("breakout", 1.0, seed, 3000) for seed in range(3)) > 100
    assert max(play("pong", 0.0, seed, 3000) for seed in range(2)) <= -17


def corner(screen: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int] | None:
    """x and y of the first column and row with a colour."""
    seen = (screen == colour).all(-1)
    return (int(seen.any(0).argmax()), int(seen.any(1).argmax())) if seen.any() else None


def watch(game: str, actions: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Screen and memory after every step."""
    env: Any = envs.make(f"atari/{game}-v0", render_mode="rgb_array")
    env.reset(seed=0)
    seen = []
    for action in actions:
        env.step(action)
        seen.append((env.render(), env.unwrapped.ale.getRAM().astype(int)))
    return seen


def test_pongs_memory_is_what_the_screen_shows() -> None:
    found = 0
    for screen, memory in watch("Pong", [2, 3, 3, 3] * 50):
        field = screen[34:194]
        ball, own = corner(field, (236, 236, 236)), corner(field, (92, 186, 92))
        if memory[54] == 0 or ball is None or own is None:
            continue
        found += 1
        assert memory[49] - ball[0] == 49
        assert abs(memory[54] - ball[1] - 48) <= 2  # its top is cut off at the upper wall
        if own[1] > 0:
            assert memory[51] - own[1] in (47, 48)
    assert found > 50


def test_breakouts_memory_is_what_the_screen_shows() -> None:
    found = 0
    for screen, memory in watch("Breakout", ([1] + [2] * 14 + [3] * 15) * 4):
        red = (200, 72, 72)
        ball, paddle = corner(screen[93:189, 8:152], red), corner(screen[189:193, 8:152], red)
        assert paddle is not None
        assert memory[72] - paddle[0] == 55 or memory[72] > 183  # beyond this the wall hides it
        if memory[101] and ball is not None:
            found += 1
            assert memory[99] - ball[0] in (56, 57)
            assert memory[101] - ball[1] == 84
    assert found > 40


def test_a_ball_bounces_between_walls() -> None:
    flown = [bounced(position, 48.0, 204.0) for position in (100, 48, 40, 210, 204 + 156 + 3, -109)]
    assert flown == [100, 48, 56, 198, 51, 203]


def test_a_paddle_is_steered_to_what_it_can_reach() -> None:
    paddle = Paddle(20, 0.5, 0, 200)
    assert paddle.steer(100, [0, 0], [160], 3) == 1
    assert paddle.steer(100, [0, 0], [60], 3) == -1
    assert paddle.steer(100, [0, 0], [60, 120], 2) == 1  # 60 is too far
    assert paddle.steer(100, [0, 0], [105], 5) == 0  # a push moves it by 20, too far
    assert paddle.steer(100, [1, 1], [110], 5) == 0  # it moves by 10 without a push
    assert paddle.steer(195, [0, 0], [200], 2) == 1  # it stops at the end of its range
