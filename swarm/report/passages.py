"""The passages that a report opens: their lines, with the quotes in them marked.

Owns numbering of references and the cutting of a passage into marked pieces. Pieces are text; a template escapes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from swarm.report.shapes import WITHDRAWN, Cite
from swarm.report.texts import SpanRow, Texts

LONGEST = 6000
"""Characters of a passage that are shown whole; of a longer one only what stands around the quotes."""
AROUND = 800

Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one line. `cites` are the references whose quote it is part of, `starts` those that begin here."""

    text: str
    cites: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a passage. `number` is None where it is not known, or as in the line before: HTML may say much in one line."""

    number: int | None
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A cited passage. `gaps` says that long stretches without a quote were left out."""

    span: int
    path: str
    breadcrumb: str
    lines: tuple[Line, ...]
    cites: tuple[tuple[int, Cite], ...]
    gaps: bool = False


class References:
    """Numbers cites from 1 in the order in which they are first asked for."""

    def __init__(self) -> None:
        self.numbers: dict[Place, int] = {}
        self.cites: list[Cite] = []

    def number(self, cite: Cite) -> int:
        place = (cite.span, cite.start, cite.end)
        if place not in self.numbers:
            self.cites.append(cite)
            self.numbers[place] = len(self.cites)
        return self.numbers[place]


def passages(references: References, texts: Texts) -> list[Passage]:
    """Each cited passage once, in the order of the text."""
    of_span: dict[int, list[tuple[int, Cite]]] = {}
    for cite in references.cites:
        of_span.setdefault(cite.span, []).append((references.number(cite), cite))
    rows = {number: texts.span(number) for number in sorted(of_span)}
    texts.fetch(row.digest for row in rows.values())
    out = []
    for number, row in rows.items():
        cites = tuple(of_span[number])
        text = texts.text(row.digest)
        first = cites[0][1]
        if text is None:
            lines: tuple[Line, ...] = (Line(None, (Piece(WITHDRAWN),)),)
        else:
            lines = _dedented(
                _lines(text, row, [(n, c.start - row.start, c.end - row.start) for n, c in cites if c.quote])
            )
        kept = _around_quotes(lines) if sum(len(p.text) for line in lines for p in line.pieces) > LONGEST else lines
        out.append(Passage(number, first.document, row.breadcrumb, kept, cites, len(kept) < len(lines)))
    return out


def _lines(text: str, row: SpanRow, marks: list[tuple[int, int, int]]) -> Iterable[Line]:
    """Cuts a text where its lines or the document's begin, and at the edges of marks, (reference, start, end)."""
    edges = {edge for _, start, end in marks for edge in (start, end)}
    begins = {0, len(text), *(found.end() for found in re.finditer("\n", text)), *(at for at, _ in row.turns or ())}
    before = None
    for at, after in pairwise(sorted(begins)):
        stop = after - text.endswith("\n", at, after)
        cuts = sorted({at, stop} | {edge for edge in edges if at < edge < stop})
        pieces = []
        for start, end in pairwise(cuts):
            over = tuple(number for number, a, b in marks if a < end and b > start)
            begun = tuple(number for number, a, _ in marks if a == start)
            pieces.append(Piece(text[start:end].rstrip("\r"), over, begun))
        number = row.line_at(text, row.start + at)
        yield Line(number if number != before else None, tuple(pieces))
        before = number


def _dedented(lines: Iterable[Line]) -> tuple[Line, ...]:
    """The lines without the indentation that all of them share, so that deep code stays readable on a phone."""
    whole = tuple(lines)
    filled = ["".join(piece.text for piece in line.pieces) for line in whole]
    shared = min((len(text) - len(text.lstrip(" ")) for text in filled if text.strip()), default=0)
    out = []
    for line in whole:
        first, *rest = line.pieces or (Piece(""),)
        blank = min(shared, len(first.text) - len(first.text.lstrip(" ")))
        out.append(Line(line.number, (Piece(first.text[blank:], first.cites, first.starts), *rest)))
    return tuple(out)


def _around_quotes(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """The lines that hold a mark and those near them; very long lines lose what is far from their marks."""
    marked = [at for at, line in enumerate(lines) if any(piece.cites for piece in line.pieces)]
    wanted = {near for at in marked for near in range(at - 6, at + 7)}
    return tuple(_trimmed(line) for at, line in enumerate(lines) if at in wanted)


def _trimmed(line: Line) -> Line:
    pieces = []
    for at, piece in enumerate(line.pieces):
        text = piece.text
        if not piece.cites and len(text) > 2 * AROUND:
            head = text[:AROUND] + " … " if at else "… "
            text = head + text[-AROUND:] if at < len(line.pieces) - 1 else head
        pieces.append(Piece(text, piece.cites, piece.starts))
    return Line(line.number, tuple(pieces))
