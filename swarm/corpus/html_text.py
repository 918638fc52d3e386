"""The text that a reader of an HTML page sees, with its headings as Markdown headings.

Owns the way from tags to text; a page may come in pieces. It fetches nothing, follows no link and runs no
script.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

LONGEST_BLOCK = 1 << 20
"""A block with more characters than this is handed on in parts, so that a page without tags is no burden."""
_HIDDEN = re.compile("(?:script|style|template|noscript|title|svg|math|iframe)$")
_BLOCK = re.compile(
    "(?:address|article|aside|blockquote|body|caption|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|footer"
    "|form|h[1-6]|header|hgroup|hr|html|legend|li|main|menu|nav|ol|option|p|pre|section|summary|table|tbody|tfoot"
    "|thead|tr|ul)$"
)
_ROW = re.compile("(?:li|tr|dt|dd|option)$")
_HEADING = re.compile(r"h([1-6])$")
_BLANKS = re.compile(r"[ \t\r\n\f]+")


class HtmlText(HTMLParser):
    """Takes a page in pieces with `feed`, gives its text in pieces with `take`; `close` before the last."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._done: list[str] = []
        self._line: list[str] = []
        self._held = 0
        self._hidden = ""
        self._hidden_depth = 0
        self._preformatted = 0
        self._mark = ""
        self._gap = ""
        self._row = self._after_row = False

    def take(self) -> str:
        """The text that is complete since the last call."""
        text = "".join(self._done)
        self._done.clear()
        return text

    def close(self) -> None:
        super().close()
        self._end_block()

    def parse_html_declaration(self, i: int) -> int:
        """Passes over `<![…`, on which the parser of Python 3.11 stops with an AssertionError."""
        if self.rawdata.startswith("<![", i) and not self.rawdata.startswith("<![CDATA[", i):
            return self.parse_bogus_comment(i)
        return super().parse_html_declaration(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden:
            self._hidden_depth += tag == self._hidden
            return
        if _HIDDEN.match(tag):
            self._hidden, self._hidden_depth = tag, 1
        elif tag == "br":
            self._line.append("\n")
        elif tag in ("td", "th"):
            self._line.append(" | " if "".join(self._line).strip() else "")
        elif tag == "img":
            self._line.append(dict(attrs).get("alt") or "")
        elif _BLOCK.match(tag):
            self._end_block()
            heading = _HEADING.match(tag)
            self._mark = "#" * int(heading[1]) + " " if heading else "- " if tag == "li" else ""
            self._row = bool(_ROW.match(tag))
            self._preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            self._hidden_depth -= tag == self._hidden
            if not self._hidden_depth:
                self._hidden = ""
        elif _BLOCK.match(tag):
            self._end_block()
            self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._line.append(data if self._preformatted else _BLANKS.sub(" ", data))
            self._held += len(data)
            if self._held > LONGEST_BLOCK:
                self._end_block()

    def _end_block(self) -> None:
        text = "".join(self._line)
        self._line.clear()
        self._held = 0
        if self._preformatted:
            text = text.strip("\r\n").rstrip()
            # Fenced, so that a comment in a listing is not taken for a heading.
            text = f"```\n{text}\n```" if text.strip() else ""
        else:
            rows = (re.sub(r" {2,}", " ", row).strip() for row in text.split("\n"))
            text = "\n".join(row for row in rows if row)
            text = " ".join(text.split("\n")) if self._mark.startswith("#") else text
        if text:
            self._done.append(("\n" if self._row and self._after_row else self._gap) + self._mark + text)
            self._gap, self._mark = "\n\n", ""
            self._row, self._after_row = False, self._row


def text_of_html(page: str) -> str:
    """The text of a whole page."""
    reader = HtmlText()
    reader.feed(page)
    reader.close()
    return reader.take()
