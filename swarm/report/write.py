"""Writing a run's report into its folder.

Owns the files and how they get there: each is whole or not there at all. What stands in them is made elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from swarm.names import is_draft
from swarm.report.answer import gather_with_texts
from swarm.report.html import columns_of, place_of, render_html, visible
from swarm.report.markdown import render_markdown
from swarm.report.shapes import Answer, Row, Statement
from swarm.store.blobs import write_durably
from swarm.store.connection import naming
from swarm.store.folder import RunFolder
from swarm.store.interface import Reader

EVIDENCE = (
    "row.quotes", "row.verdict", "quote.source", "quote.line", "quote.character", "quote", "row.sources",
)  # fmt: skip
"""What rows.csv says beside the values; `quote.character` is the offset of the quote in the source's text."""


DEAD_SECONDS = 60.0
"""Whoever has not finished a file for so long was killed over it: to write one takes far less."""


def write_report(reader: Reader, folder: RunFolder) -> dict[str, str]:
    """Writes answer.json, rows.csv, report.md and report.html; returns the blake2b-128 digest of each by its name.

    Raises:
        StoreError: the log cannot be read, or a file cannot be written.
    """
    gathered = gather_with_texts(reader, folder.holder() is not None)
    answer = gathered.answer
    texts = {
        folder.answer: answer.model_dump_json(indent=1, exclude_none=True) + "\n",
        folder.rows: rows_csv(answer),
        folder.report_markdown: render_markdown(answer),
        folder.report_html: render_html(gathered),
    }
    digests = {}
    folder.make_folder()
    for path, text in texts.items():
        data = text.encode("utf-8")
        with naming(path):
            write_durably(path, data)
            _sweep(path)
        digests[path.name] = hashlib.blake2b(data, digest_size=16).hexdigest()
    return digests


def _sweep(path: Path) -> None:
    """Removes what writers of this file have left that were killed; another one may be at work just now."""
    for name in os.listdir(path.parent):
        left = path.with_name(name)
        if name.startswith(f".{path.name}.") and is_draft(name):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > DEAD_SECONDS:
                    left.unlink()


def render(folder: RunFolder) -> dict[str, str]:
    """Writes a run's report from its log, as `write_report` does."""
    with folder.reader() as reader:
        return write_report(reader, folder)


def rows_csv(answer: Answer) -> str:
    """One line a row or statement: its values, what it rests on, its first cite in full, and all places it cites.

    The columns that are not the job's have names that no column of a job can have.
    """
    claims: list[tuple[dict[str, str], Row | Statement]] = [(row.values, row) for row in answer.rows or ()]
    claims += [({"statement": one.text}, one) for one in answer.statements or ()]
    names = ("statement",) if answer.rows is None else columns_of(answer)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([*names, *EVIDENCE])
    for values, claim in claims:
        first = claim.cites[0] if claim.cites else None
        line = [*(values.get(name, "") for name in names), str(claim.count), claim.verdict]
        line += [first.document, str(first.line or ""), str(first.start), first.quote] if first else [""] * 4
        places = Counter(map(place_of, claim.cites))
        line.append("; ".join(f"{place} ×{times}" if times > 1 else place for place, times in places.items()))
        table.writerow([_plain(visible(cell)) for cell in line])
    return out.getvalue()


def _plain(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: what could begin one is preceded by an apostrophe."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell
