"""A page made of run folders, and a parser that reads its structure."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decision_seq.report.html.page import page
from decision_seq.report.markdown import make_report
from decision_seq.report.runs import find_runs
from tests.report.folders import BUNDLED, D4RL, HOPPER, write_run

BC = {"name": "bc", "layers": 3}
RETURNS, CLONING = {"method": "returns"}, {"method": "cloning"}
VOID = ("meta", "link", "input", "img", "line", "path", "use", "circle", "rect", "polyline")


def write_runs(folder: Path) -> Path:
    """Two methods of three seeds on D4RL's data, and one run on other data without a wall-clock."""
    for seed in range(3):
        write_run(folder / f"dt-{seed}", seed, more=RETURNS)
        write_run(folder / f"bc-{seed}", seed, 1200, policy=BC, targets=(None,), more=CLONING)
    reacher = {"dataset": "bundled/reacher2d-medium", "source": BUNDLED, "reference": None}
    write_run(folder / "reacher", 0, -4, targets=(-3.0,), timed=False, more=RETURNS, **reacher)
    (write_run(folder / "half") / "scores.json").unlink()
    return folder


def write_calibration(run: Path, **changes: Any) -> None:
    """A calibration.json as `evaluate --calibrate` writes it, with some of its keys changed."""
    points = [
        {
            "target": target,
            "return_mean": 0.9 * target,
            "interval_95": [0.8 * target, target],
            "returns": [0.8 * target, target],
        }
        for target in (500.0, 1500.0, 3000.0)
    ]
    tree = {
        **{"dataset": "d4rl/hopper-medium-v2", "source": D4RL, "env_id": "Hopper-v4"},
        **{"checkpoint": "runs/x/checkpoints/step-00000100", "episodes": 2, "seed": 10_000},
        **{"reference_scores": list(HOPPER), "points": points},
        "data_return_quantiles": {"0": 300.0, "50": 1400.0, "100": 3200.0},
    }
    (run / "calibration.json").write_text(json.dumps({**tree, **changes}))


def write_explanation(run: Path, **changes: Any) -> None:
    """An explanation.json as `explain` writes it, without what pages do not show; and a picture."""
    interval = {"interval_95": [0.8, 0.95], "episodes": 100}
    estimates = {
        "separated": {"0": {"area": 0.9, **interval}},
        "moved": {"event": {"before": 0.2, "after": 0.5, "rise": 0.3, **interval}},
    }
    attention = {"episodes": 40, "last_stage": 2, "on_event": 0.2, "on_others": 0.03}
    attention |= {"difference": 0.17}
    attention |= {f"{key}_interval_95": [0.1, 0.3] for key in ("on_event", "on_others")}
    tree = {
        **{"checkpoint": "x/step-00000100", "env_id": "KeyToDoor-v0", "episodes": 100, "seed": 0},
        **{"event": "key", "stage": "phase", "happened": 40, "succeeded": 20},
        **{"estimates": estimates},
        "attention": {**attention, "difference_interval_95": [0.13, 0.21]},
    }
    (run / "explanation.json").write_text(json.dumps({**tree, **changes}))
    Image.new("RGB", (8, 8), "white").save(run / "explanation.png")


def write_film(path: Path, frames: int = 3) -> None:
    """A small GIF."""
    path.parent.mkdir(exist_ok=True)
    images = [Image.new("RGB", (16, 16), (20 * number, 0, 0)) for number in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=50)


def made(folder: Path) -> str:
    """The page of the runs in a folder."""
    runs, unfinished = find_runs([folder])
    rng = np.random.default_rng(0)
    return page(make_report(runs, unfinished, rng), rng)


class Read(HTMLParser):
    """The elements of a page, in order; raises where an end does not fit its beginning."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {attributes}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [str(found["id"]) for _, found in self.elements if "id" in found]
