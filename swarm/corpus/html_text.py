"""The text that a reader of an HTML page sees, with its headings as Markdown headings.

Owns the way from tags to text, and on which line of the file each word of the text stands; a page may come in
pieces. It fetches nothing, follows no link and runs no script.

Tags are found here and not by the standard library's parser, whose time over an unfinished tag grows with the
square of its length, and which does not say where in a piece of text a line ends. Every character is looked at a
bounded number of times, and what is held for a tag is bounded as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

from swarm.corpus.spans import FileLines, line_ends

LONGEST_BLOCK = 1 << 20
"""A block with more characters than this is handed on in parts, so that a page without tags is no burden."""
LONGEST_TAG = 4 << 20
"""What has not ended after so many characters is no tag. Pages that were saved whole hold pictures in their tags."""
_HIDDEN = re.compile("(?:script|style|template|noscript|title|svg|math|iframe)$")
_BLOCK = re.compile(
    "(?:address|article|aside|blockquote|body|caption|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|footer"
    "|form|h[1-6]|header|hgroup|hr|html|legend|li|main|menu|nav|ol|option|p|pre|section|summary|table|tbody|tfoot"
    "|thead|tr|ul)$"
)
_ROW = re.compile("(?:li|tr|dt|dd|option)$")
_HEADING = re.compile(r"h([1-6])$")
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_LINES = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]++")
_WORDS = re.compile(r"(?m:^[^\S\n]*+)?(\S++)")
"""A word, with the indentation if it is the first of its line."""

_NAME = re.compile(r"<(?P<end>/?)(?P<name>[a-zA-Z][^ \t\r\n\f/>]*+)")
"""How a tag begins."""
_ATTRIBUTE = re.compile(r"""(?P<before>[^=>]*+)=[ \t\r\n\f]*+(?P<value>"[^"]*+"|'[^']*+'|(?!["'])[^ \t\r\n\f>]*+)""")
"""An attribute that has a value, and all that stands before it. No alternatives are repeated here: there are versions of
Python in which a possessive repeat of them matches what it should not."""
_ALT = re.compile(r"(?<![^ \t\r\n\f/])alt[ \t\r\n\f]*$", re.IGNORECASE | re.ASCII)
_NO_ATTRIBUTE = re.compile("[=>]")
_SKIPPED = (
    (re.compile("<!--"), re.compile("--!?>")),
    (re.compile(r"<!\[CDATA\["), re.compile("]]>")),
    (re.compile("<[!?]|</[^a-zA-Z]"), re.compile(">")),
)
"""What no reader sees and is no tag: how it begins, and how it ends."""
_END_OF = {
    name: re.compile(f"(?=</{name}[ \t\r\n\f/>])", re.IGNORECASE | re.ASCII) for name in ("script", "style")
}
"""Elements in which there are no tags, and where each ends."""
_LONGEST_MARK = 16
"""More characters than decide how markup begins, or whether something skipped ends."""
_LONGEST_REFERENCE = 34
_REFERENCE_ENDS = re.compile(r"[\s;]")


class HtmlText:
    """Takes a page in pieces with `feed`, gives its text in pieces with `take`; `close` before the last.

    Into `lines` it notes where the text stands in the file. They grow with the page until somebody asks for them.
    """

    def __init__(self, lines: FileLines | None = None) -> None:
        self._lines = lines
        self._rest = ""
        self._file_line = 1
        self._skip: re.Pattern[str] | None = None
        self._stuck = 0
        """Tags that begin before this end at their first `>`: a tag from further ahead did not end up to here, and if each of
        them looked for its end behind its values, it would look at all this again."""
        self._done: list[str] = []
        self._length = 0
        self._block: list[str] = []
        self._held = self._letters = 0
        self._turns: list[tuple[int, int]] = []
        """(letters of the block before it, the file's line) wherever the letters go on in another line of the file.

        Only what is not white space counts as a letter: that much stays the same when a block becomes text.
        """
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

    def feed(self, data: str) -> None:
        self._read(self._rest + data, final=False)

    def close(self) -> None:
        self._read(self._rest, final=True)
        self._end_block()

    # ---- finding tags ----

    def _read(self, text: str, final: bool) -> None:
        """Takes in all that is complete, and keeps the rest. A `\r` at the end may be half of a line end."""
        half = "\r" if text.endswith("\r") and not final else ""
        text = text.removesuffix(half)
        at = 0
        while at < len(text):
            after = self._next(text, at, final) if self._skip is None else self._skipped(self._skip, text, at)
            if after is None:
                break
            self._file_line += line_ends(text, at, after)
            at = after
            if self._held > LONGEST_BLOCK:
                self._end_block()
        self._rest = text[at:] + half
        self._stuck -= at

    def _skipped(self, end: re.Pattern[str], text: str, at: int) -> int | None:
        """Passes over what is not seen: up to where it ends, else up to where its end could begin."""
        if found := end.search(text, at):
            self._skip = None
            return found.end()
        return len(text) - _LONGEST_MARK if len(text) - _LONGEST_MARK > at else None

    def _next(self, text: str, at: int, final: bool) -> int | None:
        """Takes in a piece of text or of markup; where the next begins, or None if this one needs more characters."""
        start = text.find("<", at)
        if start != at:
            end = start if start > at else len(text) if final else _whole_references(text, at)
            self._data(text[at:end], self._file_line)
            return end if end > at else None
        if not final and len(text) - at < _LONGEST_MARK:
            return None
        for begins, ends in _SKIPPED:
            if begins.match(text, at):
                self._skip = ends
                return at + 2
        if not (name := _NAME.match(text, at)):
            end = at + 1
        else:
            broken = at < self._stuck
            stop = text.find(">", name.end()) if broken else _stop(text, name.end())
            if text[stop : stop + 1] == ">":
                self._tag(name, stop)
                return stop + 1
            if not final and len(text) - at <= LONGEST_TAG:
                return None
            if not broken:
                self._stuck = stop
                return at
            end = len(text)
        self._data(text[at:end], self._file_line)
        return end

    def _tag(self, tag: re.Match[str], stop: int) -> None:
        """Takes in a tag, of which this is the beginning, with its `>` at `stop`."""
        name = tag["name"].lower()
        if tag["end"]:
            self._ends(name)
            return
        self._begins(name, tag, stop)
        # In `<a href=b/>` the stroke belongs to the value.
        if tag.string[stop - 1] == "/" and all(found.end() < stop for found in _attributes(tag.string, tag.end(), stop)):
            self._ends(name)
        else:
            self._skip = _END_OF.get(name)

    # ---- what is seen ----

    def _begins(self, name: str, tag: re.Match[str], stop: int) -> None:
        if self._hidden:
            self._hidden_depth += name == self._hidden
        elif _HIDDEN.match(name):
            self._hidden, self._hidden_depth = name, 1
        elif name == "br":
            self._add("\n", self._file_line)
        elif name in ("td", "th"):
            if self._letters:
                self._add(" | ", self._file_line)
        elif name == "img":
            for attribute in _attributes(tag.string, tag.end(), stop):
                if _ALT.search(attribute["before"]) and (value := attribute["value"]):
                    line = self._file_line + line_ends(tag.string, tag.start(), attribute.start("value"))
                    self._data(value[1:-1] if value[0] in "\"'" else value, line)
                    break
        elif _BLOCK.match(name):
            self._end_block()
            heading = _HEADING.match(name)
            self._mark = "#" * int(heading[1]) + " " if heading else "- " if name == "li" else ""
            self._row = bool(_ROW.match(name))
            self._preformatted += name == "pre"

    def _ends(self, name: str) -> None:
        if self._hidden:
            self._hidden_depth -= name == self._hidden
            if not self._hidden_depth:
                self._hidden = ""
        elif _BLOCK.match(name):
            self._end_block()
            self._preformatted = max(0, self._preformatted - (name == "pre"))

    def _data(self, data: str, line: int) -> None:
        """Takes in a text of the file that begins on this line."""
        if self._hidden:
            return
        for number, part in enumerate(_LINES.findall(data), line):
            shown = unescape(part)
            self._add(shown if self._preformatted else _BLANKS.sub(" ", shown), number)

    def _add(self, shown: str, line: int) -> None:
        self._block.append(shown)
        self._held += len(shown) or 1  # `&#1;` shows nothing, but takes a place
        letters = len("".join(shown.split()))
        if letters and (not self._turns or self._turns[-1][1] != line):
            self._turns.append((self._letters, line))
        self._letters += letters

    def _end_block(self) -> None:
        text, before, after = "".join(self._block), self._mark, ""
        if self._preformatted:
            text = text.strip("\r\n").rstrip()
            # Fenced, so that a comment in a listing is not taken for a heading.
            before, after = before + "```\n", "\n```"
        else:
            rows = (re.sub(r" {2,}", " ", row).strip() for row in text.split("\n"))
            text = "\n".join(row for row in rows if row)
            text = " ".join(text.split("\n")) if self._mark.startswith("#") else text
        if text:
            gap = "\n" if self._row and self._after_row else self._gap
            if self._lines is not None:
                self._note_lines(self._lines, text, self._length + len(gap), len(before))
            self._done.append(gap + before + text + after)
            self._length += len(self._done[-1])
            self._gap, self._mark = "\n\n", ""
            self._row, self._after_row = False, self._row
        self._block.clear()
        self._turns.clear()
        self._held = self._letters = 0

    def _note_lines(self, lines: FileLines, text: str, start: int, before: int) -> None:
        """Notes the file's lines for a block that begins at `start`, with its text `before` characters later."""
        (_, line), *turns = self._turns
        lines.note(start, line)
        if not turns:
            return
        words, letters = _WORDS.finditer(text), 0
        word = next(words)
        for ahead, line in turns:
            while letters + len(word[1]) <= ahead:
                letters += len(word[1])
                word = next(words)
            at = word.start() if ahead == letters else word.start(1) + ahead - letters
            lines.note(start + before + at, line)


def _attributes(text: str, at: int, end: int) -> Iterator[re.Match[str]]:
    """The attributes with values, from the end of a tag's name on: up to its `>`, or to a quote that never ends."""
    while attribute := _ATTRIBUTE.match(text, at, end):
        yield attribute
        at = attribute.end()


def _stop(text: str, at: int) -> int:
    """Where a tag whose name ends at `at` has its `>`; else where it has the `=` of a quote that never ends, or the end."""
    for attribute in _attributes(text, at, len(text)):
        at = attribute.end()
    found = _NO_ATTRIBUTE.search(text, at)
    return found.start() if found else len(text)


def _whole_references(text: str, start: int) -> int:
    """Up to where a text can be read that goes on: a reference to a character at its end may be half of one."""
    mark = text.rfind("&", max(start, len(text) - _LONGEST_REFERENCE))
    return len(text) if mark < 0 or _REFERENCE_ENDS.search(text, mark) else mark


def text_of_html(page: str) -> str:
    """The text of a whole page."""
    reader = HtmlText()
    reader.feed(page)
    reader.close()
    return reader.take()
