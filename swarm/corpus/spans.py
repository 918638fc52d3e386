"""What a corpus is made of: documents and the spans they are cut into.

Owns the two records, how they are named by content, and on which lines of a file they stand. It does not read, decode or
cut anything.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

FORGOTTEN = 4096
"""Lines of a file that are forgotten at a time."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text that was pinned when a job began.

    `digest` is the sha256 (hex) of the raw bytes, `size` their number; `id` names path and content together.
    `media` is one of `swarm.corpus.media`'s names; `train` says whether the text may be learned from.
    """

    id: str
    path: str
    media: str
    origin: str
    licence: str
    train: bool
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Span:
    """A passage: characters `start` to `end` of a document's decoded text.

    `tokens` is the count of exactly this text, `breadcrumb` says where it stands, `digest` is the blake2b-128
    (hex) of the text in UTF-8, and `line` is the document's line, from 1, on which it begins. Where the decoded text is
    not what the file says (HTML), `turns` are (characters from `start`, line of the file) wherever the text goes on in
    another line of the file; else it is None, and lines end where they do in the text.
    """

    document: str
    start: int
    end: int
    tokens: int
    breadcrumb: str
    digest: str
    line: int
    turns: tuple[tuple[int, int], ...] | None = None


class FileLines:
    """On which lines of its file a text stands that was made from it. Spans are asked for in order, and what lies before
    them is forgotten."""

    def __init__(self) -> None:
        self._starts, self._lines = array("Q"), array("Q")

    def note(self, start: int, line: int) -> None:
        """From character `start` on, the text stands on this line."""
        if not self._lines or self._lines[-1] != line:
            self._starts.append(start)
            self._lines.append(line)

    def of(self, span: Span) -> Span:
        """The span with the file's lines instead of the text's."""
        first = bisect_right(self._starts, span.start) - 1
        last = bisect_left(self._starts, span.end)
        line = self._lines[first]
        turns = tuple((self._starts[at] - span.start, self._lines[at]) for at in range(first + 1, last))
        if first >= FORGOTTEN:
            del self._starts[:first], self._lines[:first]
        return replace(span, line=line, turns=turns)


def line_ends(text: str, start: int, end: int) -> int:
    """How many lines end in text[start:end], by `\\n`, `\\r\\n` or `\\r`; a pair counts where its `\\n` stands."""
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end + 1)


def document_id(path: str, digest: str) -> str:
    """The first 16 hex digits of sha256(path, NUL, digest)."""
    return hashlib.sha256(f"{path}\0{digest}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_digest(text: str) -> str:
    """The blake2b-128 (hex) of the text in UTF-8; how spans and their bodies are named."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
