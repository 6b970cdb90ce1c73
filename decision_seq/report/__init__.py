"""Presentation of results: text tables, JSON, plots, and the report of several runs."""

from decision_seq.report.text import (
    calibration_text,
    inspection_text,
    markdown_table,
    score_table,
    scores_json,
    table,
    write_json,
)

__all__ = [
    "calibration_text",
    "inspection_text",
    "markdown_table",
    "score_table",
    "scores_json",
    "table",
    "write_json",
]
