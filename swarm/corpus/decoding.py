"""From bytes to text, block by block.

Owns the telling of encodings and of what is no text at all. Every failure names the byte where it is. Line
ends stay as they are, so that offsets into the text mean the same for everyone.
"""

from __future__ import annotations

import codecs
import io
import re
import tokenize
from collections.abc import Iterable, Iterator

from swarm.corpus.media import Media
from swarm.errors import CorpusError

_MARKS = (
    # UTF-32's mark begins with UTF-16's, so it is asked for first.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_KINDS = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive or an office document"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "a database"),
)
_HTML_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_TO_UTF8 = "Save it as UTF-8, for instance with: iconv -f ENCODING -t UTF-8."
_TO_TEXT = "Turn it into text first, or leave it out."


def decoded(blocks: Iterable[bytes], where: str, media: str) -> Iterator[str]:
    """The text of a stream of bytes, in blocks.

    The encoding is that of a byte order mark; else what a Python file or an HTML page declares; else UTF-8,
    or UTF-16 where every other byte is zero.

    Raises:
        CorpusError: the bytes are not text, or not in that encoding.
    """
    stream = iter(blocks)
    head = next(stream, b"")
    for mark, kind in _KINDS:
        if head.startswith(mark):
            raise CorpusError(f"is {kind}, not text", where, _TO_TEXT)
    encoding, before = _encoding(head[:4096], where, media)
    decoder = codecs.getincrementaldecoder(encoding)()
    block: bytes | None = head[before:]
    while block is not None:
        following = next(stream, None)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=following is None)
        except UnicodeDecodeError as problem:
            raise CorpusError(*_undecodable(problem, encoding, before - pending, where)) from None
        if "\0" in text:
            at = before + block.find(b"\0")
            raise CorpusError(f"is binary, not text: there is a zero byte at offset {at}", where, _TO_TEXT)
        yield text
        before += len(block)
        block = following


def _undecodable(problem: UnicodeDecodeError, encoding: str, before: int, where: str) -> tuple[str, str, str]:
    at = before + problem.start
    raw = problem.object[problem.start : problem.start + 1]
    found = f"the byte 0x{raw.hex()} at offset {at}" if raw else f"the end at offset {at}"
    return f"is not {encoding.upper()} text: {found} does not belong there ({problem.reason})", where, _TO_UTF8


def _encoding(head: bytes, where: str, media: str) -> tuple[str, int]:
    """The encoding, and the length of the byte order mark."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    declared = ""
    if media == Media.PYTHON:
        try:
            declared, _ = tokenize.detect_encoding(io.BytesIO(head).readline)
        except SyntaxError:
            declared = ""  # an unknown name, or not the UTF-8 that is the default; decoding says where
    elif media == Media.HTML:
        found = _HTML_CHARSET.search(head[:2048])
        declared = found[1].decode() if found else ""
    if declared:
        return _known(declared, where), 0
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and max(even, odd) > len(head) // 5 and min(even, odd) * 10 < max(even, odd):
        return ("utf-16-le" if odd > even else "utf-16-be"), 0
    return "utf-8", 0


def _known(name: str, where: str) -> str:
    """The codec of that name. A page that can say utf-16 in single bytes is not in UTF-16."""
    try:
        b"a".decode(name, "replace")  # LookupError also for codecs that do not give text
        codec = codecs.lookup(name)
    except LookupError:
        raise CorpusError(f"declares the encoding {name!r}, which is not known", where, _TO_UTF8) from None
    return "utf-8" if codec.name.startswith("utf-16") or codec.incrementaldecoder is None else codec.name
