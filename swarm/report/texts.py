"""The texts that a report shows: passages, paths, the content of notes, and where lines begin.

Owns reading bodies for a report, including those that are gone. A text that was withdrawn is None here and never an
error. It holds a bounded number of bodies and knows nothing of what a report looks like.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from swarm.coordinator import JobState
from swarm.corpus import Media
from swarm.corpus.spans import line_ends
from swarm.errors import StoreError
from swarm.report.shapes import WITHDRAWN, Cite
from swarm.runtime.pins import PinnedSpan, unpack_block
from swarm.store.interface import Reader

REMEMBERED = 4096
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A span as it was pinned: characters `start` to `end` of the document; `digest` names the body with its text."""

    number: int
    document: str
    start: int
    end: int
    tokens: int
    digest: str
    breadcrumb: str
    line: int
    """The document's line on which it begins; 0 where the log does not say."""
    turns: Sequence[tuple[int, int]] | None
    """As in `swarm.corpus.Span`."""

    def line_at(self, text: str, at: int) -> int | None:
        """The document's line of its character `at`; `text` is the span's. None where the log does not say."""
        if not self.line:
            return None
        if self.turns is None:
            return self.line + line_ends(text, 0, at - self.start)
        passed = bisect_right(self.turns, at - self.start, key=lambda turn: turn[0])
        return self.turns[passed - 1][1] if passed else self.line


class Texts:
    """Reads what one job's log names. `gone` are the hashes of bodies that could not be read, with the reason."""

    def __init__(self, reader: Reader, state: JobState) -> None:
        self._reader, self._state = reader, state
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._blocks: OrderedDict[str, list[PinnedSpan]] = OrderedDict()
        self._blocks_of: dict[str, list[int]] = {}
        for index, (document, _) in enumerate(state.block_rows):
            self._blocks_of.setdefault(document, []).append(index)
        self.gone: dict[str, str] = {}

    # ---- bodies ----

    def fetch(self, hashes: Iterable[str]) -> None:
        """Reads bodies ahead, many at a time."""
        wanted = [one for one in dict.fromkeys(hashes) if one and one not in self._bodies and one not in self.gone]
        if not wanted:
            return
        try:
            self._bodies.update(self._reader.bodies(wanted))
        except StoreError:  # at least one is gone: find out which
            for one in wanted:
                try:
                    self._bodies[one] = self._reader.body(one)
                except StoreError as error:
                    self.gone[one] = error.message
        while len(self._bodies) > max(REMEMBERED, len(wanted)):
            self._bodies.popitem(last=False)

    def data(self, hash: str) -> bytes | None:
        """A body, or None if it is withdrawn."""
        self.fetch((hash,))
        return self._bodies.get(hash)

    def text(self, hash: str) -> str | None:
        """A body as text in which lone surrogates, which no file takes, are U+FFFD."""
        data = self.data(hash)
        return None if data is None else printable(data.decode("utf-8", "surrogatepass"))

    def content(self, hash: str) -> dict[str, Any]:
        """The content of a note; empty if it is withdrawn."""
        data = self.data(hash)
        if data is None:
            return {}
        found: dict[str, Any] = _printable(msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False))
        return found

    # ---- spans and documents ----

    def span(self, number: int) -> SpanRow:
        """A span by its number."""
        document, block, at = self._state.block_of(number)
        rows = self._rows(block)
        if at >= len(rows):  # the block is withdrawn: what it said of its spans is not known any more
            return SpanRow(number, document, 0, 0, 0, "", "", 0, None)
        return self._row(number, document, rows[at])

    def path(self, document: str) -> str:
        """A document's path as people know it."""
        row = self._state.documents.get(document)
        if row is None:
            return f"(document {document}, not fully pinned)"
        return self.text(row.path) or WITHDRAWN

    def spans_of(self, document: str) -> Iterator[SpanRow]:
        """The spans of a document in order, a block at a time; their texts are read ahead."""
        for index in self._blocks_of.get(document, ()):
            first, block = self._state.block_first[index], self._state.block_rows[index][1]
            rows = self._rows(block)
            self.fetch(row.digest for row in rows)
            for at, row in enumerate(rows):
                yield self._row(first + at, document, row)

    def pieces(self, document: str) -> Iterator[tuple[int, str | None, bool]]:
        """A whole document as (first character, text, whether that text is pinned) in order.

        White space between passages is not pinned, but its length is: it comes back as line ends. None is a passage
        whose text is withdrawn.
        """
        at, windows = 0, False
        for span in self.spans_of(document):
            text = self.text(span.digest)
            windows = windows or "\r\n" in (text or "")
            if span.start > at:
                yield at, _blank(span.start - at, windows), False
            yield span.start, text, True
            at = span.end

    def _rows(self, block: str) -> list[PinnedSpan]:
        rows = self._blocks.get(block)
        if rows is None:
            data = self.data(block)
            rows = self._blocks[block] = unpack_block(data) if data is not None else []
            if len(self._blocks) > 256:
                self._blocks.popitem(last=False)
        return rows

    def _row(self, number: int, document: str, span: PinnedSpan) -> SpanRow:
        pinned = self._state.documents.get(document)
        # Before `turns` were kept, lines of HTML were counted in the text that was made of it.
        line = 0 if span.turns is None and pinned and pinned.media == Media.HTML else span.line
        breadcrumb = printable(span.breadcrumb)
        return SpanRow(
            number, document, span.start, span.end, span.tokens, span.digest, breadcrumb, line, span.turns
        )

    # ---- lines and cites ----

    def cites(self, places: Iterable[tuple[int, int, int]]) -> dict[tuple[int, int, int], Cite]:
        """The cites for (span, start, end) of graph edges, with quotes and line numbers."""
        wanted: dict[str, list[tuple[int, int, int]]] = {}
        for place in sorted(set(places)):
            wanted.setdefault(self._state.block_of(place[0])[0], []).append(place)
        found: dict[tuple[int, int, int], Cite] = {}
        for document, here in wanted.items():
            path = self.path(document)
            spans = {number: self.span(number) for number, _, _ in here}
            self.fetch(span.digest for span in spans.values())
            for place in here:
                number, start, end = place
                span = spans[number]
                text = self.text(span.digest)
                quote = WITHDRAWN if text is None else text[start - span.start : end - span.start]
                found[place] = Cite(
                    document=path, span=number, start=start, end=end, quote=quote,
                    line=None if text is None else span.line_at(text, start),
                    last_line=None if text is None else span.line_at(text, max(start, end - 1)),
                )  # fmt: skip
        return found


def printable(text: str) -> str:
    """The text with lone surrogates as U+FFFD; its length stays the same."""
    return _SURROGATES.sub("\ufffd", text)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value


def _blank(length: int, windows: bool) -> str:
    return "\r\n" * (length // 2) + " " * (length % 2) if windows else "\n" * length
