"""Cutting Markdown and reStructuredText at headings, then at paragraphs.

Owns the finding of headings (outside code fences) and the tree of sections that breadcrumbs name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarm.corpus import pieces
from swarm.corpus.boundaries import of_prose, split_lines
from swarm.corpus.pieces import Piece
from swarm.corpus.splitting import Boundaries, Ruler

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})$")
_NO_TITLE = " \t>|-*+"
_RULE = re.compile(r"([=\-~^\"'`*+#:.<>_!$%&(),/;?@\[\\\]{|}])\1*\s*$")


@dataclass(slots=True)
class Section:
    """A heading with what follows, up to the next heading of its level or above; offsets in characters."""

    title: str
    level: int
    start: int
    body_end: int
    inner: list[Section] = field(default_factory=list)


def cut_markup(ruler: Ruler, path: str, merge_tokens: int, rst: bool = False) -> Iterator[Piece]:
    """The pieces of a document with headings, in order."""
    top = Section("", 0, 0, len(ruler.text))
    headings = list(_rst_headings(ruler.text) if rst else _markdown_headings(ruler.text))
    trail = [top]
    for at, (start, level, title) in enumerate(headings):
        trail[-1].body_end = start
        while trail[-1].level >= level:
            trail.pop()
        after = headings[at + 1][0] if at + 1 < len(headings) else len(ruler.text)
        section = Section(title, level, start, after)
        trail[-1].inner.append(section)
        trail.append(section)
    yield from _pieces(ruler, top, pieces.root(path), merge_tokens, of_prose(ruler.text))


def _pieces(
    ruler: Ruler, section: Section, breadcrumb: str, merge_tokens: int, boundaries: Boundaries
) -> list[Piece]:
    found = list(pieces.cut(ruler, section.start, section.body_end, breadcrumb, boundaries))
    for inner in section.inner:
        title = f"{breadcrumb} > {pieces.label(inner.title)}" if inner.title else breadcrumb
        found.extend(_pieces(ruler, inner, title, merge_tokens, boundaries))
    return pieces.merged(ruler, found, breadcrumb, merge_tokens)


def _markdown_headings(text: str) -> Iterator[tuple[int, int, str]]:
    """(offset, level, title) of each heading: `# Title`, or a paragraph of one underlined line."""
    starts, lines = split_lines(text)
    fence = ""
    fresh = True  # whether a paragraph could begin on this line
    title_at = -1
    for at, line in enumerate(map(str.rstrip, lines)):
        mark, heading = _FENCE.match(line), _ATX.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence, fresh = "", True
            continue
        if mark:
            fence, title_at = mark[1], -1
        elif heading:
            yield starts[at], len(heading[1]), heading[2] or ""
            fresh, title_at = True, -1
        elif title_at >= 0 and _UNDERLINE.match(line):
            yield starts[title_at], 1 if "=" in line else 2, lines[title_at].strip()
            fresh, title_at = True, -1
        else:
            title_at = at if fresh and line and line[0] not in _NO_TITLE else -1
            fresh = not line


def _rst_headings(text: str) -> Iterator[tuple[int, int, str]]:
    """(offset, level, title): a line with an underline as long; levels in the order of their first use."""
    starts, raw = split_lines(text)
    lines = [line.rstrip() for line in raw]
    styles: list[str] = []
    at = 0
    while at + 1 < len(lines):
        title, under, before = lines[at], lines[at + 1], lines[at - 1] if at else ""
        over = bool(before) and before == under
        plain = title[:1].strip() and not before
        fits = title.strip() and not _is_rule(title) and len(under) >= len(title.strip())
        if fits and (plain or over) and _is_rule(under):
            style = f"{under[0]}{over}"
            if style not in styles:
                styles.append(style)
            yield starts[at - over], styles.index(style) + 1, title.strip()
            at += 2
        else:
            at += 1


def _is_rule(line: str) -> bool:
    return len(line) >= 2 and bool(_RULE.match(line))
