"""Facts of an explanation.json as rows of text, for the command line and for pages."""

from __future__ import annotations

from typing import Any

from decision_seq.formatting import number_text


def explanation_rows(found: dict[str, Any]) -> list[list[str]]:
    """Rows of name, mean, lower and upper end of the 95 % interval, and number of episodes.

    found: results of `analysis.credit_assignment.explain`.
    """
    event, stage = found["event"], found["stage"]
    rows = []
    if found["estimates"]:
        for number, area in found["estimates"]["separated"].items():
            name = f"area under the curve at the end of {stage} {number}"
            rows.append([name, number_text(area["area"], 3), *_ends(area), f"{area['episodes']:,}"])
        for name, moved in found["estimates"]["moved"].items():
            what = f"the estimate's rise with the {event if name == 'event' else 'success'}"
            rows.append(
                [what, number_text(moved["rise"], 3), *_ends(moved), f"{moved['episodes']:,}"]
            )
    attention = found["attention"]
    if attention:
        last, count = attention["last_stage"], f"{attention['episodes']:,}"
        for key, what in (
            ("on_event", f"attention of {stage} {last} on the step of the {event}"),
            ("on_others", "mean attention on another step of the same stage"),
            ("difference", "the difference"),
        ):
            interval = {"interval_95": attention[f"{key}_interval_95"]}
            rows.append([what, number_text(attention[key], 4), *_ends(interval, 4), count])
    return rows


def _ends(found: dict[str, Any], digits: int = 3) -> tuple[str, str]:
    low, high = found["interval_95"]
    return number_text(low, digits), number_text(high, digits)
