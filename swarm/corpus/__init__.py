"""Documents and the spans they are cut into, from files, folders and installed packages.

Owns the road from an input as people name it to spans with exact sizes. It knows nothing of jobs, models or the board.
"""

from swarm.corpus.cutting import MAX_TOKENS, MERGE_TOKENS, cut_text
from swarm.corpus.media import Media, media_of
from swarm.corpus.spans import Document, Span

__all__ = ["MAX_TOKENS", "MERGE_TOKENS", "Document", "Media", "Span", "cut_text", "media_of"]
