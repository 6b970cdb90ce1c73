"""Environment for `bench startup` that writes down the time of its first step and then ends.

Its arguments are part of its id, in the syntax of `decision-seq evaluate --env`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium

ID = "FirstStep-v0"


class FirstStep(gymnasium.Wrapper):
    """Wrapper that writes the time of the first step to a file and truncates the episode.

    env_id: the wrapped environment; note: the file.
    """

    def __init__(self, env_id: str, note: str, **more: Any) -> None:
        super().__init__(gymnasium.make(env_id, **more))
        self.note = Path(note)

    def step(self, action: Any) -> Any:
        if not self.note.exists():
            self.note.write_text(repr(time.time()), encoding="utf-8")
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, True, info


def noting(env_id: str, note: Path) -> str:
    """The id of an environment that writes the time of its first step to the file `note`."""
    arguments = json.dumps({"env_id": env_id, "note": str(note)})
    return f"{__name__}:{ID}?{arguments}"


gymnasium.register(ID, f"{__name__}:FirstStep", disable_env_checker=True, order_enforce=False)
