"""The score table as LaTeX and as CSV."""

from __future__ import annotations

import csv
import io

from decision_seq.escaping import latex, spreadsheet
from decision_seq.formatting import interval_text, number_text, target_text
from decision_seq.report.compare import Comparison, Group, counted

FIELDS = (
    *("dataset", "row", "method", "target", "is_first_target", "score", "unit"),
    *("interval_95_low", "interval_95_high", "sample", "sample_size"),
    *("episodes_per_target", "environment", "data_source", "published_comparable"),
)


def latex_table(comparison: Comparison) -> str:
    """The scores at the first target as a `tabular` of booktabs: a row a dataset."""
    labels = comparison.labels
    head = ["dataset", "target", *map(latex, labels)]
    lines = [
        r"% Last checkpoint at the first declared target; mean and 95 % interval.",
        r"% Values marked raw are returns, where no reference scores exist.",
        r"% Needs \usepackage{booktabs}. The samples:",
    ]
    for group in comparison.groups.values():
        lines.append(f"%   {latex(group.row)}, {latex(group.label)}: {counted(group.estimate())}")
    lines += [
        rf"\begin{{tabular}}{{lr{'r' * len(labels)}}}",
        r"\toprule",
        rf"{' & '.join(head)} \\",
        r"\midrule",
    ]
    for row, protocol in comparison.rows.items():
        first = (protocol.targets or (None,))[0]
        target = "--" if first is None else f"${target_text(first).replace(',', '{,}')}$"
        cells = [_cell(comparison.groups.get((row, label))) for label in labels]
        lines.append(rf"{' & '.join([latex(row), target, *cells])} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(group: Group | None) -> str:
    if group is None:
        return "--"
    estimate = group.estimate()
    separator = "" if estimate.normalized else "{,}"
    texts = [number_text(estimate.mean).replace(",", separator)]
    if estimate.interval is not None:
        interval = interval_text(estimate.interval, group=",").replace(", ", "; ")
        interval = interval.replace(",", separator).replace("; ", ",\\ ")
        texts.append(rf"{{\scriptsize ${interval}$}}")
    texts[0] = f"${texts[0]}$"
    return " ".join([*texts, *([] if estimate.normalized else ["raw"])])


def csv_table(comparison: Comparison) -> str:
    """The scores at all declared targets as CSV: a line for each dataset, method and target."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for group in comparison.groups.values():
        protocol = comparison.rows[group.row]
        for index, target in enumerate(group.runs[0].targets):
            estimate = group.estimate(index)
            low, high = estimate.interval or ("", "")
            names = [protocol.dataset, group.row, group.label]
            writer.writerow(
                [
                    *(*map(spreadsheet, names), "" if target is None else target, index == 0),
                    *(estimate.mean, "normalized" if estimate.normalized else "return"),
                    *(low, high, estimate.over, estimate.count, protocol.episodes),
                    *(spreadsheet(protocol.env_id), spreadsheet(protocol.source)),
                    protocol.comparable,
                ]
            )
    return text.getvalue()
