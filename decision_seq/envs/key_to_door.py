"""Key-to-Door, a grid world for credit assignment: the first room decides the last room's reward.

The Decision Transformer paper's experiment on credit assignment (Chen et al., 2021), whose
environment and data were never released (kzl/decision-transformer#54). Rebuilt after the grid world
of Hung et al., 2019 (google-deepmind/deepmind-research, tvt/pycolab/key_to_door.py): the three
timed rooms, moves, view and colours are the same; there are no apples, only one reward, and shorter
times. Sizes and times were chosen by the uniform random walk only, before anything was trained: it
succeeds in 3.1 % of the episodes, as in the paper's data, and then by almost straight paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

FLOOR, WALL, KEY, DOOR = range(4)
ONE_OF_KINDS, ONE_OF_ROOMS = np.eye(4, dtype=np.float32), np.eye(3, dtype=np.float32)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # north, south, west, east
ROOMS = ((2, 3), (3, 3), (3, 3))
STEPS = (4, 22, 4)
MOST = 1000  # largest size or time
# Colours of the kinds of cells and of the player, converted from Hung et al.'s thousandths.
COLOURS = np.array([(800,) * 3, (100,) * 3, (627, 321, 176), (529, 808, 922)]) * 255 // 1000
PLAYER = np.array((898, 584, 430)) * 255 // 1000
PIXELS = 32  # a cell's side in a picture


class KeyToDoor(gymnasium.Env):
    """Task: take the key in room 1, cross the empty room 2, and enter the door in room 3.

    Observations [4 view² + 3]: floor, wall, key or door, one-hot, of each cell around the player,
    row by row, and the room, one-hot. Observations in rooms 2 and 3 do not show whether the player
    has the key. Actions: 0 to 3, a step north, south, west or east; a step into a wall, or into the
    door without the key, has no effect. Reward 1 for entering the door, which ends the episode; the
    end of the last room's time terminates it with 0.

    rooms: height and width of each room. In room 1 the key is in a random cell of the upper half
    and the player starts in one of the lower half; in other rooms it starts in the middle. Room 3
    has its door in the middle of the upper wall. steps: duration of each room. view: cells per
    side, odd.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own)

    def __init__(
        self,
        rooms: Sequence[Sequence[int]] = ROOMS,
        steps: Sequence[int] = STEPS,
        view: int = 5,
        render_mode: str | None = None,
    ) -> None:
        self.rooms = _numbers("rooms", rooms, (3, 2))
        self.ends = _numbers("steps", steps, (3,)).cumsum()
        self.max_episode_steps = int(self.ends[-1])
        self.view = int(_numbers("view", view, ()))
        if self.rooms[0, 0] < 2:
            raise ValueError(f"rooms {rooms}: room 1 must be at least 2 high")
        if self.view % 2 == 0:
            raise ValueError(f"view {view} must be odd: the player is in its middle")
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 1, (4 * self.view**2 + 3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))
        self.margin = self.view // 2 + 1  # cells of wall, so that the view from the door fits
        self.player = (0, 0)  # index of the player's cell in `cells`

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.key = 0, False
        self._enter(0)
        return self._observe(), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        row, column = (at + by for at, by in zip(self.player, MOVES[action], strict=True))
        found = self.cells[row, column]
        if found in (FLOOR, KEY) or (found == DOOR and self.key):
            self.player = row, column
        if found == KEY:
            self.key = True
            self.cells[row, column] = FLOOR
        opened = self.cells[self.player] == DOOR
        self.time += 1
        over = bool(opened or self.time == self.ends[-1])
        if not over and self.time == self.ends[self.room]:
            self._enter(self.room + 1)
        return self._observe(), float(opened), over, False, self._info()

    def render(self) -> np.ndarray:
        """[H, W, 3] uint8: the room with its walls, in a picture of the largest room's size."""
        height, width = self.rooms[self.room] + 2
        image = COLOURS[self.cells].astype(np.uint8)
        image[self.player] = PLAYER
        top = self.margin - 1
        image = image[top : top + height, top : top + width]
        picture = np.full((*self.rooms.max(0) + 2, 3), COLOURS[WALL], np.uint8)
        row, column = (np.array(picture.shape[:2]) - (height, width)) // 2
        picture[row : row + height, column : column + width] = image
        return picture.repeat(PIXELS, 0).repeat(PIXELS, 1)

    def _enter(self, room: int) -> None:
        """Enter the room of that index: place the player, and the key or the door."""
        self.room = room
        height, width = (int(size) for size in self.rooms[room])
        first, half = self.margin, height // 2
        self.cells = np.full((height + 2 * first, width + 2 * first), WALL)
        self.cells[first : first + height, first : first + width] = FLOOR
        self.player = first + half, first + width // 2
        if room == 0:
            self.cells[self._draw(first, half, width)] = KEY
            self.player = self._draw(first + height - half, half, width)
        elif room == 2:
            self.cells[first - 1, first + width // 2] = DOOR

    def _draw(self, top: int, height: int, width: int) -> tuple[int, int]:
        """A random cell of `height` rows from `top` on."""
        cell = int(self.np_random.integers(height * width))
        return top + cell // width, self.margin + cell % width

    def _observe(self) -> np.ndarray:
        row, column = (at - self.view // 2 for at in self.player)
        seen = self.cells[row : row + self.view, column : column + self.view]
        return np.concatenate([ONE_OF_KINDS[seen].ravel(), ONE_OF_ROOMS[self.room]])

    def _info(self) -> dict[str, Any]:
        """Step info. key: whether the player has it; phase: the room's number, 1 to 3."""
        return {"key": self.key, "phase": self.room + 1}


def _numbers(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of whole numbers from 1 to MOST and of that shape; ValueError otherwise."""
    array = np.array(value, object)
    whole = all(type(item) is int and 1 <= item <= MOST for item in array.flat)
    if array.shape != shape or not whole:
        what = " x ".join(map(str, shape)) + " whole numbers" if shape else "a whole number"
        raise ValueError(f"{name} {value!r} must be {what} from 1 to {MOST:,}")
    return array.astype(int)


gymnasium.register("KeyToDoor-v0", "decision_seq.envs.key_to_door:KeyToDoor")
