"""Documents and the spans they are cut into, from files, folders and installed packages.

Owns the road from an input as people name it to spans with exact sizes. It knows nothing of jobs, models or
the board.
"""

from swarm.corpus.cutting import MAX_TOKENS, MERGE_TOKENS, cut_stream, cut_text
from swarm.corpus.html_text import text_of_html
from swarm.corpus.media import Media, media_of
from swarm.corpus.pinning import Pinned, glance, pin
from swarm.corpus.reading import document_of, is_streamed, open_spans, read_text
from swarm.corpus.sources import Skipped, Source, resolve
from swarm.corpus.spans import Document, Span, document_id, text_digest

__all__ = [
    "MAX_TOKENS",
    "MERGE_TOKENS",
    "Document",
    "Media",
    "Pinned",
    "Skipped",
    "Source",
    "Span",
    "cut_stream",
    "cut_text",
    "document_id",
    "document_of",
    "glance",
    "is_streamed",
    "media_of",
    "open_spans",
    "pin",
    "read_text",
    "resolve",
    "text_digest",
    "text_of_html",
]
