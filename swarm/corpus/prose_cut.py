"""Cutting plain text: paragraphs, lines, sentences, words.

Owns nothing but the choice of boundaries; a passage is filled as far as the limit lets it.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarm.corpus import pieces
from swarm.corpus.boundaries import of_prose
from swarm.corpus.pieces import Piece
from swarm.corpus.splitting import Ruler, passages


def cut_prose(ruler: Ruler, path: str) -> Iterator[Piece]:
    """The pieces of a plain text, in order."""
    for passage in passages(ruler, 0, len(ruler.text), of_prose(ruler.text)):
        yield Piece(passage, pieces.root(path), closed=True)
