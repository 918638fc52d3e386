"""Cutting Markdown and reStructuredText at headings, then at paragraphs.

Owns the finding of headings (outside code fences) and the tree of sections that breadcrumbs name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarm.corpus import pieces
from swarm.corpus.boundaries import line_starts, of_prose
from swarm.corpus.pieces import Piece
from swarm.corpus.splitting import Boundaries, Ruler

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
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
    """(offset, level, title) of each heading: `# Title`, or a line underlined with = or -."""
    starts = line_starts(text)
    fence, before, before_start = "", "", 0
    for start, end in zip(starts, starts[1:], strict=False):
        line = text[start:end].rstrip()
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if mark:
            fence, before = mark[1], ""
            continue
        heading = _ATX.match(line)
        if heading:
            yield start, len(heading[1]), heading[2] or ""
            before = ""
        elif before and line and not line.lstrip(" ").strip(line.lstrip(" ")[0]) and line.lstrip(" ")[0] in "=-":
            if len(line.strip()) >= 2:
                yield before_start, 1 if "=" in line else 2, before
            before = ""
        else:
            # Only a paragraph of one line can be underlined; list items, quotes and table rows cannot.
            single = line.strip() if not before and line[:1] not in ("", " ", "\t", ">", "|", "-", "*", "+") else ""
            before, before_start = single, start
    return


def _rst_headings(text: str) -> Iterator[tuple[int, int, str]]:
    """(offset, level, title): a line with an underline at least as long; levels in the order of their first use."""
    starts = line_starts(text)
    lines = [text[start:end].rstrip() for start, end in zip(starts, starts[1:], strict=False)]
    styles: list[str] = []
    at = 0
    while at + 1 < len(lines):
        title, under = lines[at], lines[at + 1]
        over = at > 0 and _is_rule(lines[at - 1]) and lines[at - 1] == under
        plain = title and title[0] != " " and not _is_rule(title) and (over or at == 0 or not lines[at - 1])
        if _is_rule(under) and len(under) >= len(title.strip()) and (plain or (over and title.strip())):
            style = ("over" if over else "") + under[0]
            if style not in styles:
                styles.append(style)
            yield starts[at - 1 if over else at], styles.index(style) + 1, title.strip()
            at += 2
        else:
            at += 1


def _is_rule(line: str) -> bool:
    return len(line) >= 2 and bool(_RULE.match(line))
