"""A report as one self-contained HTML page, which needs neither network nor other files."""

from decision_seq.report.html.page import write_page

__all__ = ["write_page"]
