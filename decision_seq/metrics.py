"""What a run measures on the way: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from decision_seq.config import save_text


class Metrics:
    """Writes one record a logged update.

    step: the updates already done; what a killed run wrote past its checkpoint is cut off.
    """

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = output / "metrics.jsonl"
        kept = []
        if step and path.is_file():
            for line in path.read_text(errors="replace").splitlines(keepends=True):
                if not line.endswith("\n") or _step(line) > step:
                    break
                kept.append(line)
        save_text(path, "".join(kept))
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 (closed by `close`)
        self.board = SummaryWriter(output / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, record: dict[str, float]) -> None:
        self.file.write(json.dumps(record) + "\n")
        for key, value in record.items():
            if key != "step":
                self.board.add_scalar(key, value, int(record["step"]))

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _step(line: str) -> float:
    """The update a line belongs to; infinity for a damaged one."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
