"""An environment that notes when it is first stepped, and ends there: `bench startup` asks for it.

Its id carries its arguments, as `decision-seq evaluate --env` takes them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium

ID = "FirstStep-v0"


class FirstStep(gymnasium.Wrapper):
    """env_id: the environment beneath; note: the file that gets the time of the first step."""

    def __init__(self, env_id: str, note: str, **more: Any) -> None:
        super().__init__(gymnasium.make(env_id, **more))
        self.note = Path(note)

    def step(self, action: Any) -> Any:
        if not self.note.exists():
            self.note.write_text(repr(time.time()))
        observation, reward, terminated, _, told = super().step(action)
        return observation, reward, terminated, True, told


def noting(env_id: str, note: Path) -> str:
    """The id of an environment that notes its first step in a file."""
    arguments = json.dumps({"env_id": env_id, "note": str(note)})
    return f"{__name__}:{ID}?{arguments}"


gymnasium.register(ID, f"{__name__}:FirstStep", disable_env_checker=True, order_enforce=False)
