"""One HTML page that lays training runs over each other: results, curves, what differs, episodes."""

from maml_fast.report._page import write_report

__all__ = ["write_report"]
