"""Opening sources: what is in them, and their spans.

Owns all reading of corpus files, in blocks, so that a text of many GB is never in memory; and the pinning of
a job's inputs by digest. It does not look for files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from swarm.corpus.cutting import MAX_TOKENS, MERGE_TOKENS, cut_stream, cut_text
from swarm.corpus.decoding import decoded
from swarm.corpus.html_text import HtmlText
from swarm.corpus.media import Media
from swarm.corpus.sources import Source
from swarm.corpus.spans import Document, FileLines, Span, document_id
from swarm.errors import CorpusError
from swarm.window.tokens import Tokenizer

BLOCK_BYTES = 1 << 20
WHOLE_BYTES = 4 << 20
"""A file of structured text up to this size is cut by its structure; a larger one as plain text."""


def document_of(source: Source) -> Document:
    """Reads a source once, in blocks, and names what is in it.

    Raises:
        CorpusError: it cannot be read, is not text, or holds nothing but white space.
    """
    meter = _Meter()
    holds_text = False
    for text in _text(source, meter):
        holds_text = holds_text or bool(text.strip())
    if not holds_text:
        raise CorpusError("holds no text", source.where, "Leave it out, or put text into it.")
    return _document(source, meter)


def open_spans(
    source: Source,
    tokenizer: Tokenizer,
    max_tokens: int = MAX_TOKENS,
    merge_tokens: int = MERGE_TOKENS,
    document: Document | None = None,
) -> Iterator[tuple[Span, str]]:
    """The spans of a source and their texts, in order.

    A plain text, of whatever size, and any text over 4 MiB is read and cut block by block. Anything else is
    read whole.

    Args:
        document: what was pinned. If the source has another digest by now this fails: before the first span
            for a text that is read whole, after the last for one that is streamed.

    Raises:
        CorpusError: the source cannot be read, is not text, or is not what was pinned.
    """
    meter = _Meter()
    lines = FileLines() if source.media == Media.HTML else None
    texts = _text(source, meter, lines)
    if document is None:
        # Spans name their document, and its id needs the digest: one more pass.
        document = document_of(source)
    if is_streamed(document):
        spans = cut_stream(texts, source.path, tokenizer, document=document.id, max_tokens=max_tokens)
    else:
        whole = "".join(texts)
        _check(source, meter, document)
        found = cut_text(
            whole,
            source.path,
            source.media,
            tokenizer,
            document=document.id,
            max_tokens=max_tokens,
            merge_tokens=merge_tokens,
        )
        spans = ((span, whole[span.start : span.end]) for span in found)
    for span, text in spans:
        yield lines.of(span) if lines else span, text
    _check(source, meter, document)


def is_streamed(document: Document) -> bool:
    """Whether a document is cut as plain text, block by block."""
    return document.media == Media.PLAIN or document.size > WHOLE_BYTES


def read_text(source: Source) -> str:
    """The whole text that the offsets of spans mean. Needs as much memory as the text is long."""
    return "".join(_text(source, _Meter()))


class _Meter:
    """Counts and digests the raw bytes that went by."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def over(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self.digest.update(block)
            self.size += len(block)
            yield block


def _document(source: Source, meter: _Meter) -> Document:
    digest = meter.digest.hexdigest()
    return Document(
        id=document_id(source.path, digest),
        path=source.path,
        media=source.media,
        origin=source.origin,
        licence=source.licence,
        train=source.train,
        digest=digest,
        size=meter.size,
    )


def _check(source: Source, meter: _Meter, pinned: Document) -> None:
    if meter.digest.hexdigest() != pinned.digest:
        raise CorpusError(
            f"has changed since the job began ({pinned.size} bytes then, {meter.size} now)",
            source.where,
            "Put the old content back and resume, or start a new run.",
        )


def _text(source: Source, meter: _Meter, lines: FileLines | None = None) -> Iterator[str]:
    """The text of a source; that of an HTML page as a reader sees it, with its file's lines noted in `lines`."""
    texts = decoded(meter.over(_blocks(source)), source.where, source.media)
    return _visible(texts, HtmlText(lines)) if source.media == Media.HTML else texts


def _visible(texts: Iterable[str], page: HtmlText) -> Iterator[str]:
    for text in texts:
        page.feed(text)
        yield page.take()
    page.close()
    yield page.take()


def _blocks(source: Source) -> Iterator[bytes]:
    if source.file is None:
        yield source.literal or b""
        return
    try:
        with source.file.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as problem:
        raise CorpusError(
            f"cannot be read: {problem.strerror or problem}",
            source.where,
            "Check that it is there and that you may read it.",
        ) from problem
