"""From a text to its spans: the door of the cutters.

Owns the choice of cutter for each kind of text, and the promises that hold for all of them: no span has more
than `max_tokens` tokens; spans are in order and do not overlap; what lies outside of them is white space
only; the same text, path and tokenizer give the same spans. It reads no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from swarm.corpus.code_cut import cut_code
from swarm.corpus.markup_cut import cut_markup
from swarm.corpus.media import Media
from swarm.corpus.pieces import Piece
from swarm.corpus.prose_cut import cut_prose, cut_prose_stream
from swarm.corpus.python_cut import cut_python
from swarm.corpus.spans import Span, document_id, line_ends, text_digest
from swarm.corpus.splitting import Ruler
from swarm.window.tokens import Tokenizer

MAX_TOKENS = 320
MERGE_TOKENS = 96


def cut_text(
    text: str,
    path: str,
    media: str,
    tokenizer: Tokenizer,
    *,
    document: str | None = None,
    max_tokens: int = MAX_TOKENS,
    merge_tokens: int = MERGE_TOKENS,
) -> Iterator[Span]:
    """The spans of a text that is in memory, in order.

    Args:
        text: the decoded text; for HTML the text that `html_text` made of it.
        path: how the document is called in breadcrumbs.
        media: one of `Media`; anything else is cut as plain text.
        document: the id that the spans name; by default the one of the text's own UTF-8 bytes.
        max_tokens: the most tokens of a span, at least 32.
        merge_tokens: small neighbours of one parent are joined while together they have no more tokens than
            this.

    Raises:
        CorpusError: `max_tokens` is too small to cut with.
    """
    ruler = Ruler(text, tokenizer, max_tokens)
    if document is None:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        document = document_id(path, digest)
    at, line = 0, 1
    for piece in _pieces(ruler, path, media, min(merge_tokens, max_tokens)):
        start = piece.passage.start
        at, line = start, line + line_ends(text, at, start)
        yield _span(piece, text, document, line)


def cut_stream(
    texts: Iterable[str], path: str, tokenizer: Tokenizer, *, document: str, max_tokens: int = MAX_TOKENS
) -> Iterator[tuple[Span, str]]:
    """The spans, with their texts, of a plain text that comes in blocks; the same as `cut_text` finds in the
    whole.

    Holds one block and the longest passage in memory.
    """
    at, line = -1, 1
    for piece, text, shift, lines in cut_prose_stream(texts, path, tokenizer, max_tokens):
        if at < shift:
            at, line = shift, lines
        line += line_ends(text, at - shift, piece.passage.start)
        at = piece.passage.start + shift
        yield _span(piece, text, document, line, shift), text[piece.passage.start : piece.passage.end]


def _span(piece: Piece, text: str, document: str, line: int, shift: int = 0) -> Span:
    """A piece of `text` as a span that begins on `line`, where `text` begins at character `shift` of the document."""
    start, end = piece.passage.start, piece.passage.end
    digest = text_digest(text[start:end])
    return Span(document, start + shift, end + shift, piece.passage.tokens, piece.breadcrumb, digest, line)


def _pieces(ruler: Ruler, path: str, media: str, merge_tokens: int) -> Iterator[Piece]:
    match media:
        case Media.PYTHON:
            return cut_python(ruler, path, merge_tokens)
        case Media.MARKDOWN | Media.HTML | Media.RST:
            return cut_markup(ruler, path, merge_tokens, rst=media == Media.RST)
        case Media.CODE:
            return cut_code(ruler, path, merge_tokens)
        case _:
            return cut_prose(ruler, path)
