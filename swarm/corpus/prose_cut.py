"""Cutting plain text: paragraphs, lines, sentences, words.

Owns nothing but the choice of boundaries, and the buffer of a text that comes in blocks. A passage is filled
as far as the limit lets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from swarm.corpus import pieces
from swarm.corpus.boundaries import of_prose
from swarm.corpus.pieces import Piece
from swarm.corpus.spans import line_ends
from swarm.corpus.splitting import DEEPEST_INDENT, Ruler, next_passage, passages
from swarm.window.tokens import Tokenizer


def cut_prose(ruler: Ruler, path: str) -> Iterator[Piece]:
    """The pieces of a plain text, in order."""
    for passage in passages(ruler, 0, len(ruler.text), of_prose(ruler.text)):
        yield Piece(passage, pieces.root(path), closed=True)


def cut_prose_stream(
    texts: Iterable[str], path: str, tokenizer: Tokenizer, max_tokens: int
) -> Iterator[tuple[Piece, str, int, int]]:
    """The pieces of a plain text that comes in blocks: (piece, text, the text's offset in the document and its first line).

    The same pieces as `cut_prose` finds, because a passage is only decided once all that it depends on is
    there.
    """
    breadcrumb = pieces.root(path)
    text, shift, line, start = "", 0, 1, 0
    for block in _with_end(texts):
        # What stays: the rest, and before it one character that says whether the rest begins a line.
        kept = max(0, start - 1)
        line += line_ends(text, 0, kept)
        text, shift, start = text[kept:] + (block or ""), shift + kept, start - kept
        ruler = Ruler(text, tokenizer, max_tokens)
        boundaries = of_prose(text)
        while start < len(text):
            opening = ruler.opening(start, len(text))
            if block is not None and len(text) - opening <= ruler.reach:
                if opening == len(text):
                    # Nothing but blanks: only what may yet be a line's indentation matters.
                    start = max(start, len(text) - 2 * DEEPEST_INDENT)
                break
            passage, start = next_passage(ruler, start, len(text), boundaries)
            if passage:
                yield Piece(passage, breadcrumb, closed=True), text, shift, line


def _with_end(texts: Iterable[str]) -> Iterator[str | None]:
    yield from texts
    yield None
