"""One self-contained page of a report: its parts are collected here and filled into templates."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import __version__
from decision_seq.config import save_text
from decision_seq.escaping import page as shown
from decision_seq.report.compare import Comparison
from decision_seq.report.html import attachments
from decision_seq.report.html.curves import learning
from decision_seq.report.html.drawing import Chart, Look
from decision_seq.report.html.further import (
    chosen_afterwards,
    improvements,
    other_targets,
    over_tasks,
)
from decision_seq.report.html.profiles import calibration_chart, profile_chart
from decision_seq.report.html.provenance import differences, provenance
from decision_seq.report.html.scores import blocks, every_run, overview
from decision_seq.report.html.words import words
from decision_seq.report.markdown import Report
from decision_seq.report.published_context import fitting
from decision_seq.report.runs import FinishedRun
from decision_seq.report.summary import shared

FILES = Path(__file__).parent


@dataclass(frozen=True)
class Calibration:
    """A run's calibration."""

    run: FinishedRun
    dataset: int
    method: int
    chart: Chart
    about: str


def write_page(report: Report, path: Path, rng: np.random.Generator) -> None:
    """Write the page of a report, whole or not at all. UserError when it cannot be written."""
    save_text(path, page(report, rng))


def page(report: Report, rng: np.random.Generator) -> str:
    """The page of a report. The same runs and the same random numbers give the same page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FILES),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (
        (FILES / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js")
    )
    environment.globals.update(style=style, script=script, digest=digest)
    return environment.get_template("page.html").render(contents(report, rng)) + "\n"


def digest(text: str) -> str:
    """The hash by which the page's security policy allows its own style and script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def contents(report: Report, rng: np.random.Generator) -> dict[str, Any]:
    """All that the templates show."""
    comparison = report.comparison
    entries = fitting(list(comparison.rows.values()))
    runs = [run for group in comparison.groups.values() for run in group.runs]
    films = attachments.films(runs, attachments.Budget(attachments.MOST_FILM_BYTES))
    pictures = attachments.Budget(attachments.MOST_PICTURE_BYTES)
    profiles = profile_chart(comparison, rng)
    lacking = [label for label in comparison.labels if label not in shared(comparison)[0]]
    return {
        "version": __version__,
        "words": words(comparison),
        "notes": comparison.notes,
        "unfinished": report.unfinished,
        "datasets": list(comparison.rows),
        "methods": [(Look.of(at), label) for at, label in enumerate(comparison.labels)],
        "overview": overview(comparison) if len(comparison.rows) > 1 else None,
        "raw": not all(g.estimate().normalized for g in comparison.groups.values()),
        "blocks": blocks(comparison, entries),
        "sources": entries,
        "learning": [learning(comparison, row) for row in comparison.rows],
        "runs": every_run(comparison),
        "other_targets": other_targets(comparison),
        "afterwards": chosen_afterwards(comparison),
        "tasks": shared(comparison)[1],
        "lacking": lacking,
        "over_tasks": over_tasks(comparison, report.summaries),
        "improvements": improvements(comparison, report.improvements),
        "profiles": profiles,
        "profile_legend": []
        if profiles is None
        else [(s.look, s.name, "") for s in profiles.series],
        "calibrations": calibrations(comparison),
        "explanations": attachments.explanations(runs, pictures),
        "films": films,
        "film_limit": attachments.MOST_FILM_BYTES,
        "differences": differences(comparison),
        "provenance": provenance(comparison),
    }


def calibrations(comparison: Comparison) -> Sequence[Calibration]:
    """The calibrations that the runs hold."""
    found: list[Calibration] = []
    titles = list(comparison.rows)
    for group in comparison.groups.values():
        method = comparison.labels.index(group.label)
        for run in group.runs:
            tree = attachments.calibration(run)
            if tree is None:
                continue
            chart = calibration_chart(
                tree, f"calibration-{len(found)}", run.folder.name, Look.of(method)
            )
            about = (
                f"{group.label}, seed {run.seed}, {tree['env_id']},"
                f" {Path(tree['checkpoint']).name}; {tree['episodes']} episodes a target"
            )
            found.append(Calibration(run, titles.index(group.row), method, chart, about))
    return found
