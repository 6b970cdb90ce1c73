"""Scripted players of Pong and Breakout, which read the game's memory, with adjustable skill.

A paddle takes two or three steps to follow an action, and moves more than its own length in a step
of full push. A player therefore plans: of all ways to wait and then push until the ball arrives, it
takes the one that ends nearest to its goal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

FARTHEST = 6  # largest number of steps planned ahead
MOST_LAG = 4  # delay in steps of the worst player's sight


@dataclass(frozen=True)
class Paddle:
    """Motion of a paddle, in the units of the game's memory."""

    speed: float
    """Distance per step of a push."""
    delay: float
    """Steps between the start of a push and the start of the motion."""
    low: float
    """Lowest position."""
    high: float
    """Highest position."""

    def _distance(self, steps: float) -> float:
        """Distance of a push that has lasted `steps` steps."""
        return self.speed * max(0.0, steps - self.delay)

    def _distance_since(self, since: float, held: float) -> float:
        """Distance of a push that began `since` steps ago and lasted `held` steps."""
        return self._distance(since) - self._distance(since - held)

    def steer(
        self, position: float, past: Sequence[int], goals: Sequence[float], steps: float
    ) -> int:
        """The direction (-1, 0, 1) of the next push, to reach one of the goals in `steps` steps.

        past: the directions of former pushes, the newest first.
        """
        drift = position + sum(
            way * (self._distance_since(steps + ago, 1) - self._distance_since(ago, 1))
            for ago, way in enumerate(past, 1)
        )
        plans = [(0, 0, 0)] + [
            (way, wait, held)
            for way in (-1, 1)
            for wait in range(int(steps) + 1)
            for held in range(1, int(steps) - wait + 1)
        ]

        def missed(plan: tuple[int, int, int]) -> float:
            way, wait, held = plan
            end = drift + way * self._distance_since(steps - wait, held)
            end = min(max(end, self.low), self.high)
            moving = held > 0 and steps - wait - held < 1  # the end position is then less certain
            # Equal plans: prefer the one that pushes less, and later.
            return min(abs(end - goal) for goal in goals) + 2 * moving + 0.01 * held - 0.001 * wait

        way, wait, _ = min(plans, key=missed)
        return 0 if wait else way


def bounced(position: float, low: float, high: float) -> float:
    """Position between two walls after reflection; `position` is the one without walls."""
    position = (position - low) % (2 * (high - low))
    return low + min(position, 2 * (high - low) - position)


class Player(Protocol):
    """Player of one episode."""

    def act(self, memory: np.ndarray, pressed: int) -> int:
        """The game's 128 bytes of memory and the previous action -> an action."""
        ...


class _Tracker:
    """Tracker of the ball's velocity and of the directions in which the paddle was pushed."""

    ways: dict[int, int]  # action -> direction of its push

    def __init__(self) -> None:
        self.past = deque([0, 0], 2)
        self.ball: tuple[int, int] | None = None

    def velocity(self, ball: tuple[int, int] | None, pressed: int) -> tuple[int, int] | None:
        """The ball's movement in the last step; None if it was not in play."""
        self.past.appendleft(self.ways.get(pressed, 0))
        former, self.ball = self.ball, ball
        if former is None or ball is None:
            return None
        return ball[0] - former[0], ball[1] - former[1]


class PongPlayer(_Tracker):
    """Pong player that strikes the ball fast and with an end of its paddle, hard to return.

    A long rally may repeat for ever, so the player varies its strokes after the first few.

    Memory: ball at 49 (x) and 54 (y, 0 for no ball), own paddle's top at 51. Holding FIRE while
    striking the ball makes it faster.
    """

    ways = {2: -1, 4: -1, 3: 1, 5: 1}  # noqa: RUF012 (up is negative)
    paddle = Paddle(23, 0.65, 38, 203)
    walls = 48, 204
    line = 188  # x of the ball when it is struck
    centred = -6  # paddle's top minus ball's when the middle of the paddle strikes
    end = 6.5  # distance of an end from the middle
    slow = 4  # x per step; a faster ball, struck with FIRE, would be too fast to be aimed
    middle = 118
    patience = 6  # strokes before the player varies them

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng
        self.strokes, self.coming = 0, False
        self.parts = (-self.end, self.end)

    def act(self, memory: np.ndarray, pressed: int) -> int:
        x, y, top = int(memory[49]), int(memory[54]), int(memory[51])
        moved = self.velocity((x, y) if y else None, pressed)
        if not y:
            self.strokes, self.parts = 0, (-self.end, self.end)
            return 3  # to the end of its range, so that every rally starts from the same position
        if moved is None:
            return 0
        struck, self.coming = self.coming and moved[0] < 0, moved[0] > 0
        if struck:
            self.strokes += 1
            if self.strokes > self.patience:
                self.parts = (self.rng.uniform(-self.end, self.end),) * 2
        if moved[0] <= 0:
            return (0, 3, 2)[self.paddle.steer(top, self.past, [self.middle], 3)]
        steps = (self.line - x) / moved[0]
        middle = bounced(y + moved[1] * steps, *self.walls) + self.centred
        goals = [middle + part for part in self.parts]
        way = self.paddle.steer(top, self.past, goals, min(steps, FARTHEST))
        return (1, 5, 4)[way] if moved[0] <= self.slow else (0, 3, 2)[way]


class BreakoutPlayer(_Tracker):
    """Breakout player that stays under the ball and strikes with a random part of its paddle.

    Memory: ball at 99 (x) and 101 (y, 0 for no ball), paddle's left end at 72.
    """

    ways = {3: -1, 2: 1}  # noqa: RUF012
    paddle = Paddle(22, 0.5, 55, 191)
    walls = 57, 200
    line = 179  # y of the ball when it is struck
    bricks = 100  # y of the lower edge of the bricks
    centred = -9  # paddle's left end minus ball's when the middle of the paddle strikes
    aim = 3.0  # largest distance of a stroke from the middle

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng
        self.part = 0.0

    def act(self, memory: np.ndarray, pressed: int) -> int:
        x, y, left = int(memory[99]), int(memory[101]), int(memory[72])
        moved = self.velocity((x, y) if y else None, pressed)
        if not y:
            return 1
        if moved is None:
            return 0
        there, steps = float(x), 3.0
        if moved[1] <= 0 or y >= self.line:
            self.part = self.rng.uniform(-self.aim, self.aim)
        elif y > self.bricks:
            steps = (self.line - y) / moved[1]
            there = bounced(x + moved[0] * steps, *self.walls) + self.part
        goals = [there + self.centred]
        return (0, 2, 3)[self.paddle.steer(left, self.past, goals, min(steps, FARTHEST))]


# Game -> its player.
PLAYERS: dict[str, Callable[[np.random.Generator], Player]] = {
    "pong": PongPlayer,
    "breakout": BreakoutPlayer,
}


class Skilled:
    """A game's player with a given skill.

    skill: 1 is the best play. A smaller skill delays the observed memory by some steps and replaces
    actions by random ones with probability (1 - skill)²; at 0 every action is random.
    """

    def __init__(self, game: str, skill: float, actions: int, rng: np.random.Generator) -> None:
        self.player = PLAYERS[game](rng)
        self.random, self.actions, self.rng = (1 - skill) ** 2, actions, rng
        self.seen: deque[np.ndarray] = deque(maxlen=1 + round(MOST_LAG * (1 - skill) ** 2))
        self.pressed = 0

    def act(self, memory: np.ndarray) -> int:
        self.seen.append(memory)
        self.pressed = self.player.act(self.seen[0], self.pressed)
        if self.rng.random() < self.random:
            self.pressed = int(self.rng.integers(self.actions))
        return self.pressed
