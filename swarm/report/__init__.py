"""The report of a run: its answer as data, as Markdown and as one page."""

from swarm.report.answer import gather
from swarm.report.shapes import Answer
from swarm.report.write import render, write_report

__all__ = ["Answer", "gather", "render", "write_report"]
