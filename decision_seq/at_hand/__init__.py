"""Trained policies that come with the package, as checkpoints named `bundled/NAME`.

`experiments/at_hand/build.py` trains them. Each folder holds what a rollout needs, the scores of
its only evaluation, and a card that says how it was trained.
"""

from __future__ import annotations

from pathlib import Path

from decision_seq.types import UserError

PREFIX = "bundled/"
FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the policies, such as `bundled/hopper-medium-dt`."""
    found = sorted(path.parent.name for path in FOLDER.glob("*/model.safetensors"))
    return [f"{PREFIX}{name}" for name in found]


def located(path: Path) -> Path:
    """The folder of `bundled/NAME`, unless such a path exists; any other path as it is.

    UserError for a name that there is not.
    """
    name = path.as_posix()
    if path.exists() or not name.startswith(PREFIX):
        return path
    if name not in names():
        raise UserError(f"no policy is called {name}; there are {', '.join(names())}")
    return FOLDER / name.removeprefix(PREFIX)


def shown(path: Path) -> str:
    """A checkpoint's path for people: its name if it is a policy at hand."""
    return f"{PREFIX}{path.name}" if path.parent == FOLDER else str(path)
