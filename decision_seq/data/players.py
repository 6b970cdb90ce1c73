"""Scripted players of Pong and Breakout, which read the game's memory; perfect or as bad as asked.

A paddle takes two or three steps to follow what is pressed and moves more than its own length in a
step that it is pushed all through, so a player plans: of all ways to wait and then to push until
the ball is there, it takes the one that ends nearest to where it wants to be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

FARTHEST = 6  # steps that are planned ahead
MOST_LAG = 4  # steps by which the worst player's sight lags behind


@dataclass(frozen=True)
class Paddle:
    """How it moves: `speed` a step while it is pushed, beginning `delay` steps after it is.

    low, high: the positions between which it moves, in the units of the game's memory.
    """

    speed: float
    delay: float
    low: float
    high: float

    def _pushed(self, steps: float) -> float:
        """How far a push held for so many steps has moved it."""
        return self.speed * max(0.0, steps - self.delay)

    def _after(self, since: float, held: float) -> float:
        """How far a push that began `since` steps ago and was held for `held` has moved it."""
        return self._pushed(since) - self._pushed(since - held)

    def steer(
        self, position: float, past: Sequence[int], goals: Sequence[float], steps: float
    ) -> int:
        """The direction (-1, 0, 1) to push in now, to be at one of the goals in so many steps.

        past: the directions pushed in before, the last step's first.
        """
        drift = position + sum(
            way * (self._after(steps + ago, 1) - self._after(ago, 1))
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
            end = drift + way * self._after(steps - wait, held)
            end = min(max(end, self.low), self.high)
            moving = held > 0 and steps - wait - held < 1  # so where it is then is less sure
            # Of equal plans, the one that pushes least, and later.
            return min(abs(end - goal) for goal in goals) + 2 * moving + 0.01 * held - 0.001 * wait

        way, wait, _ = min(plans, key=missed)
        return 0 if wait else way


def bounced(position: float, low: float, high: float) -> float:
    """Where something is that flew on to `position` between two walls."""
    position = (position - low) % (2 * (high - low))
    return low + min(position, 2 * (high - low) - position)


class Player(Protocol):
    """Plays one episode."""

    def act(self, memory: np.ndarray, pressed: int) -> int:
        """The game's 128 bytes, and the action of the step before -> an action."""
        ...


class _Tracker:
    """What both games ask for: the ball's velocity, and which way the paddle was pushed."""

    ways: dict[int, int]  # action -> direction it pushes in

    def __init__(self) -> None:
        self.past = deque([0, 0], 2)
        self.ball: tuple[int, int] | None = None

    def velocity(self, ball: tuple[int, int] | None, pressed: int) -> tuple[int, int] | None:
        """A step's movement of the ball; None where it was not in play."""
        self.past.appendleft(self.ways.get(pressed, 0))
        former, self.ball = self.ball, ball
        if former is None or ball is None:
            return None
        return ball[0] - former[0], ball[1] - former[1]


class PongPlayer(_Tracker):
    """Returns the ball by an end of its paddle, and fast: both are hard to return.

    A rally that goes on and on may repeat itself for ever, so after some strokes it tries others.

    Memory: ball at 49 (x) and 54 (y, 0 when there is none), own paddle's top at 51. FIRE held when
    the ball is struck makes it faster.
    """

    ways = {2: -1, 4: -1, 3: 1, 5: 1}  # noqa: RUF012 (up is less)
    paddle = Paddle(23, 0.65, 38, 203)
    walls = 48, 204
    line = 188  # x of the ball when it is struck
    centred = -6  # the paddle's top less the ball's when its middle strikes
    end = 6.5  # an end's distance from the middle
    slow = 4  # a step; a ball that is faster already would become too fast to be aimed
    middle = 118
    patience = 6  # strokes

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
            return 3  # to the end of its way, from where it sets out the same each time
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
    """Keeps under the ball, and strikes it by another part of its paddle each time.

    Memory: ball at 99 (x) and 101 (y, 0 when there is none), paddle's left end at 72.
    """

    ways = {3: -1, 2: 1}  # noqa: RUF012
    paddle = Paddle(22, 0.5, 55, 191)
    walls = 57, 200
    line = 179  # y of the ball when it is struck
    bricks = 100  # y below which there are none
    centred = -9  # the paddle's left end less the ball's when its middle strikes
    aim = 3.0  # the farthest from the middle

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


# The games that are played here -> their player.
PLAYERS: dict[str, Callable[[np.random.Generator], Player]] = {
    "pong": PongPlayer,
    "breakout": BreakoutPlayer,
}


class Skilled:
    """A game's player, as good as asked.

    skill: 1 plays as well as it can; less of it sees the game as it was some steps ago and presses
    anything now and then, at 0 at every step.
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
