"""An environment that misbehaves as its keyword argument `fault` says."""

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATION, ACTION, LAST = 3, 2, 6


class World(gymnasium.Env):
    """Episodes of six steps with a reward of 1 at each."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, fault: str = "", render_mode: str | None = None) -> None:
        self.fault, self.render_mode, self.t = fault, render_mode, 0
        self.observation_space = spaces.Box(-9, 9, (OBSERVATION,), np.float32)
        self._actions: Any = spaces.Box(-1, 1, (ACTION,), np.float32)
        odd = {
            "nan bounds": spaces.Box(np.float32(-np.inf), np.float32(np.inf), (ACTION,)),
            "crossed": spaces.Box(-1, 1, (ACTION,), np.float32),
            "no space": None,
            "tuple": spaces.Tuple([spaces.Discrete(2)]),
            "complex": spaces.Text(4),
        }
        self._actions = odd.get(fault, self._actions)
        if fault == "crossed":
            self._actions.low, self._actions.high = self._actions.high, self._actions.low
        if fault == "no observations":
            self.observation_space = None  # type: ignore[assignment]
        if fault == "list of observations":
            self.observation_space = [1, 2, 3]  # type: ignore[assignment]
        if fault == "exit when made":
            sys.exit(3)
        if fault == "leave the folder":
            os.chdir("/")
        if fault == "remove the folder":
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
        if fault == "close stdout":
            os.close(1)
        if fault == "abort":
            os._exit(7)

    @property
    def action_space(self) -> Any:
        if self.fault == "action space raises":
            raise RuntimeError("no motors")
        return self._actions

    @action_space.setter
    def action_space(self, value: Any) -> None:
        self._actions = value

    def observation(self) -> Any:
        return np.full(OBSERVATION, min(self.t, 5) / 5, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        if self.fault == "space changes":
            self.observation_space = spaces.Box(-9, 9, (4,), np.float32)
            return np.zeros(4, np.float32), {}
        if self.fault == "actions change":
            self._actions = spaces.Discrete(5)
        if self.fault == "reset alone":
            return self.observation()
        if self.fault == "reset none":
            return None
        if self.fault == "reset info none":
            return self.observation(), None
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        seen: Any = self.observation()
        reward: Any = 1.0
        ended: Any = self.t >= LAST
        info: Any = {}
        if self.t == 3 or self.fault == "noisy":
            seen, reward, ended, info = self.odd(seen, reward, ended, info, action)
            if self.fault == "step none":
                return None
            if self.fault == "four":
                return seen, reward, ended, info
        return seen, reward, ended, False, info

    def odd(self, seen: Any, reward: Any, ended: Any, info: Any, action: Any) -> Any:
        fault = self.fault
        seen = {
            "another shape": np.zeros(7, np.float32),
            "matrix": np.zeros((1, OBSERVATION), np.float32),
            "seen none": None,
            "seen text": np.array(["a", "b", "c"]),
            "seen objects": np.array([None, 1, []], dtype=object),
            "seen complex": np.zeros(OBSERVATION, np.complex64),
            "seen huge": np.full(OBSERVATION, 1e300),
            "seen dict": {"x": 1},
            "seen a list": [0.0, 1.0, 2.0],
            "ragged": [0.0, [1.0], 2.0],
        }.get(fault, seen)
        reward = {
            "reward text": "1.0",
            "reward huge": 1e308,
            "reward whole": 10**400,
            "reward complex": 1 + 2j,
            "reward bool": True,
            "reward empty": [],
        }.get(fault, reward)
        ended = {
            "ended array": np.array([True, False]),
            "ended none": None,
            "ended text": "no",
            "ended nan": float("nan"),
        }.get(fault, ended)
        if fault == "info none":
            info = None
        if fault == "writes to action":
            action[:] = np.nan
        if fault == "noisy":
            sys.stdout.write("x" * 200_000)
            for i in range(200):
                warnings.warn(f"warning {i}", stacklevel=1)
        if fault == "exit":
            sys.exit(0)
        if fault == "exit text":
            sys.exit("stop this")
        if fault == "generator exit":
            raise GeneratorExit
        if fault == "stop iteration":
            raise StopIteration
        if fault == "memory":
            raise MemoryError
        if fault == "user signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        if fault == "alarm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if fault == "thread":
            threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()
        if fault == "seed":
            np.random.seed(0)  # noqa: NPY002
            with contextlib.suppress(ImportError):
                import torch

                torch.manual_seed(0)
                torch.set_default_dtype(torch.float64)
        if fault == "grad":
            import torch

            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float64)
        if fault == "errors":
            np.seterr(all="raise")
            warnings.simplefilter("error")
        if fault == "long words":
            raise RuntimeError("\x1b[2J" + "y" * 100_000)
        if fault == "word raises":
            raise Sour
        return seen, reward, ended, info

    def render(self) -> Any:
        return {
            "film none": None,
            "film text": "a picture",
            "film floats": np.zeros((8, 8, 3)),
            "film empty": np.zeros((0, 0, 3), np.uint8),
            "film changes": np.zeros((8 + self.t, 8, 3), np.uint8),
            "film grey": np.zeros((8, 8), np.uint8),
        }.get(self.fault, np.zeros((8, 8, 3), np.uint8))

    def close(self) -> None:
        if self.fault == "close raises":
            raise RuntimeError("the port is busy")


class Sour(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


gymnasium.register("World-v0", World, disable_env_checker=True)
