"""Atari 2600 games in the Arcade Learning Environment: `atari/Pong-v0`, `atari/MsPacman-v0`, ...

The preprocessing is our own and needs no OpenCV. Frames, rewards and ends equal those of ale-py's
`AtariVectorEnv` to the bit (`tests/envs/test_atari.py`). The protocol is that of the Decision
Transformer's evaluation (kzl/decision-transformer, atari/) except the resize: the maximum of the
newest frames is taken before it is shrunk by area, as in DQN-replay (google-research/batch_rl over
google/dopamine).
"""

from __future__ import annotations

import os
from functools import cache, reduce
from operator import add
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from decision_seq.envs.atari_scores import FRAME_SKIP, MOST_STEPS, NOOP_MAX, env_id_of
from decision_seq.types import UserError

SIDE, STACK = 84, 4
TWO_PLAYERS = ("combat", "joust", "maze_craze", "warlords")  # games without a one-player mode


class Atari(gymnasium.Env):
    """Atari game with observations [4, 84, 84] uint8: grey frames, oldest first.

    Frames before the episode's first are zeros. Actions are the game's minimal set, those that have
    an effect. Rewards are the game's own. An episode ends with the game, not with a life;
    Gymnasium's TimeLimit truncates it after 30 minutes of play. An episode is a function of its
    seed and actions only, not of former episodes in the same object.

    noop_max: an episode begins with 0 to noop_max frames without an action, drawn uniformly from
    its seed: at most 30, as in the DQN paper (the Decision Transformer's code and ale-py's
    AtariVectorEnv draw 0 to 29, Gymnasium's wrapper 1 to 30).
    repeat_action_probability: probability that an emulator frame repeats the previous frame's
    action (Machado et al. 2018); it is 0.25 in DQN-replay's data.
    """

    stacked_frames = True  # see `envs.making`
    metadata = {  # noqa: RUF012 (Gymnasium's convention)
        "render_modes": ["rgb_array"],
        "render_fps": 15,
    }

    def __init__(
        self,
        game: str,
        repeat_action_probability: float = 0.0,
        noop_max: int = NOOP_MAX,
        render_mode: str | None = None,
    ) -> None:
        from ale_py import ALEInterface, LoggerMode

        sticky = repeat_action_probability
        if not (isinstance(sticky, int | float) and 0 <= sticky < 1):
            raise ValueError(f"repeat_action_probability {sticky!r} must be in [0, 1)")
        if not (isinstance(noop_max, int) and noop_max >= 0):
            raise ValueError(f"noop_max {noop_max!r} must be a number of frames")
        self.sticky, self.noop_max, self.render_mode = sticky, noop_max, render_mode
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)  # `_act` uses the seeded generator
        self.ale.loadROM(_rom(game))  # takes 0.2 s, so once for all episodes
        self.ale.reset_game()
        self.start = self.ale.cloneSystemState()
        self.actions = self.ale.getMinimalActionSet()
        self.noop = self.ale.getLegalActionSet()[0]
        height, width = self.ale.getScreenDims()
        self.screens = np.zeros((2, height, width), np.uint8)
        self.shrink = Shrink(height, width)
        self.frames = np.zeros((STACK, SIDE, SIDE), np.uint8)
        self.observation_space = gymnasium.spaces.Box(0, 255, self.frames.shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._restart()
        self.held = self.noop
        for _ in range(self.np_random.integers(self.noop_max + 1)):
            self._act(self.noop)
            if self.ale.game_over():
                self._restart()
        self.frames = np.zeros_like(self.frames)
        self.screens[1] = 0
        self.ale.getScreenGrayscale(self.screens[0])
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        chosen = self.actions[int(action)]
        reward, ended = 0, False
        for left in reversed(range(FRAME_SKIP)):
            reward += self._act(chosen)
            ended = self.ale.game_over()
            if ended:
                break  # the screen after the game's end is not used, as in AtariVectorEnv
            if left < 2:
                self.ale.getScreenGrayscale(self.screens[left])
        return self._observe(), float(reward), ended, False, {}

    def render(self) -> np.ndarray:
        """[210, 160, 3] uint8: the emulator's newest screen in colour (250 rows for some games)."""
        return self.ale.getScreenRGB()

    def _restart(self) -> None:
        self.ale.reset_game()  # restores the screen, but not all of the machine's state
        self.ale.restoreSystemState(self.start)  # restores all of the machine but its screen

    def _act(self, action: Any) -> int:
        """Advance the emulator by one frame -> its reward."""
        if not self.sticky or self.np_random.random() >= self.sticky:
            self.held = action
        return self.ale.act(self.held)

    def _observe(self) -> np.ndarray:
        np.maximum(self.screens[0], self.screens[1], out=self.screens[0])
        newest = self.shrink(self.screens[0])
        # A new array each time, because callers may hold the previous one.
        self.frames = np.concatenate([self.frames[1:], newest[None]])
        return self.frames


class Shrink:
    """Resize of a grey screen [height, width] to [SIDE, SIDE] by the mean of each pixel's area.

    It equals OpenCV's INTER_AREA to the bit: the same weights, and float32 sums in the same order,
    over columns before rows.
    """

    def __init__(self, height: int, width: int) -> None:
        self.columns, self.column_weights = _taps(width)  # [taps, SIDE], [taps, SIDE, 1]
        self.rows, self.row_weights = _taps(height)

    def __call__(self, screen: np.ndarray) -> np.ndarray:
        narrow = _sum(np.ascontiguousarray(screen.T), self.columns, self.column_weights)
        small = _sum(np.ascontiguousarray(narrow.T), self.rows, self.row_weights)
        return np.rint(small).astype(np.uint8)


def _sum(lines: np.ndarray, which: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of a few lines each, added one by one: [L, W] -> [SIDE, W]."""
    return reduce(add, (lines.take(i, 0) * w for i, w in zip(which, weights, strict=True)))


def _taps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights of the lines, of `size`, that make up each of SIDE lines."""
    scale = size / SIDE
    taps = []
    for line in range(SIDE):
        start, end = line * scale, (line + 1) * scale
        lines = np.arange(int(start), min(int(np.ceil(end)), size))
        share = np.minimum(lines + 1, end) - np.maximum(lines, start)
        taps.append((lines[share > 1e-3], share[share > 1e-3] / scale))
    most = max(len(lines) for lines, _ in taps)
    which, weights = np.zeros((most, SIDE), np.intp), np.zeros((most, SIDE, 1), np.float32)
    for line, (lines, share) in enumerate(taps):  # unused taps have weight 0
        which[: len(lines), line], weights[: len(lines), line, 0] = lines, share
    return which, weights


def _rom(game: str) -> Path:
    """A game's ROM file, from ale-py or `$ALE_ROMS_DIR`; UserError if it is missing."""
    import ale_py

    folder = os.environ.get("ALE_ROMS_DIR") or Path(ale_py.roms.__file__).parent
    path = Path(folder, f"{game}.bin")
    if not path.is_file() or ale_py.ALEInterface.isSupportedROM(path) is None:
        raise UserError(
            f"{path} is not there or is no ROM that ale-py supports; install ale-py anew, or set"
            " ALE_ROMS_DIR to a folder of ROMs"
        )
    return path


@cache
def register() -> None:
    """Register every game of ale-py with Gymnasium, with ids like `atari/MsPacman-v0`."""
    from ale_py.roms import get_all_rom_ids

    for game in set(get_all_rom_ids()) - set(TWO_PLAYERS):
        gymnasium.register(
            env_id_of(game),
            "decision_seq.envs.atari:Atari",
            max_episode_steps=MOST_STEPS,
            disable_env_checker=True,
            kwargs={"game": game},
        )
