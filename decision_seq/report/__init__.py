"""Presentation of results: text tables, JSON, plots, and the report of several runs."""

from decision_seq.report.explanation import explanation_text, plot_explanation
from decision_seq.report.matching import matching_text, plot_matching
from decision_seq.report.plots import plot_calibration, plot_returns
from decision_seq.report.prediction import plot_prediction, prediction_text
from decision_seq.report.text import (
    calibration_text,
    inspection_text,
    markdown_table,
    score_table,
    scores_json,
    table,
    target_text,
    write_json,
)

__all__ = [
    "calibration_text",
    "explanation_text",
    "inspection_text",
    "markdown_table",
    "matching_text",
    "plot_calibration",
    "plot_explanation",
    "plot_matching",
    "plot_prediction",
    "plot_returns",
    "prediction_text",
    "score_table",
    "scores_json",
    "table",
    "target_text",
    "write_json",
]
