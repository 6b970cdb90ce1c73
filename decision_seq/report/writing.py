"""The report as files: report.md, report.json and the plots that report.md shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from decision_seq.config import save_text
from decision_seq.report.markdown import Report, markdown, report_json
from decision_seq.report.plots import plot_learning, plot_profiles, plot_seeds
from decision_seq.report.summary import shared
from decision_seq.report.text import write_json
from decision_seq.types import UserError


def write_report(report: Report, folder: Path, rng: np.random.Generator) -> list[Path]:
    """Write the report's files -> their paths, report.md last.

    UserError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the output folder {folder}: {error.strerror}") from error
    comparison = report.comparison
    images = [("Every seed", "seeds.png")]
    plot_seeds(comparison, folder / "seeds.png")
    if shared(comparison)[1]:
        images.append(("Performance profiles", "profiles.png"))
        plot_profiles(comparison, folder / "profiles.png", rng)
    for number, row in enumerate(comparison.rows, start=1):
        name = f"learning-{number}-{re.sub(r'[^a-z0-9]+', '-', row.lower()).strip('-')[-60:]}.png"
        images.append((f"Learning on {row}", name))
        plot_learning(comparison, row, folder / name)
    write_json(folder / "report.json", report_json(report))
    save_text(folder / "report.md", markdown(report, images))
    return [*(folder / name for _, name in images), folder / "report.json", folder / "report.md"]
