"""What a corpus is made of: documents and the spans they are cut into.

Owns the two records, how they are named by content, and what counts as a line. It does not read, decode or cut anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


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
    (hex) of the text in UTF-8, and `line` is the document's line, from 1, on which it begins.
    """

    document: str
    start: int
    end: int
    tokens: int
    breadcrumb: str
    digest: str
    line: int


def line_ends(text: str, start: int, end: int) -> int:
    """How many lines end in text[start:end], by `\\n`, `\\r\\n` or `\\r`; a pair counts where its `\\n` stands."""
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end + 1)


def document_id(path: str, digest: str) -> str:
    """The first 16 hex digits of sha256(path, NUL, digest)."""
    return hashlib.sha256(f"{path}\0{digest}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_digest(text: str) -> str:
    """The blake2b-128 (hex) of the text in UTF-8; how spans and their bodies are named."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
