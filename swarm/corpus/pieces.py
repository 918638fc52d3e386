"""Pieces of a document on their way to becoming spans.

Owns the merging of small neighbours, the only thing that every kind of structured text has in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from swarm.corpus.splitting import Boundaries, Passage, Ruler, passages

LABEL_LENGTH = 80
PATH_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage with its breadcrumb. `closed`: it is never merged with a neighbour."""

    passage: Passage
    breadcrumb: str
    closed: bool = False


def label(text: str) -> str:
    """A heading or name as one short line."""
    words = " ".join(text.split())
    return words if len(words) <= LABEL_LENGTH else words[: LABEL_LENGTH - 1] + "…"


def root(path: str) -> str:
    """The first part of a breadcrumb: the path, without its beginning if it is very long."""
    return path if len(path) <= PATH_LENGTH else "…" + path[-PATH_LENGTH + 1 :]


def cut(ruler: Ruler, start: int, end: int, breadcrumb: str, boundaries: Boundaries) -> Iterator[Piece]:
    """The range as one piece if it fits, else as closed pieces that end at the boundaries."""
    whole = ruler.whole(start, end)
    if whole:
        yield Piece(whole, breadcrumb)
        return
    for passage in passages(ruler, start, end, boundaries):
        yield Piece(passage, breadcrumb, closed=True)


def merged(ruler: Ruler, pieces: Iterable[Piece], parent: str, limit: int) -> list[Piece]:
    """The pieces of one parent, neighbours joined under the parent's breadcrumb while together they have
    `limit` tokens.

    A parent that comes out as a single open piece may go on to be merged with its own neighbours; the pieces
    of any other are closed.
    """
    result: list[Piece] = []
    for piece in pieces:
        if result and not piece.closed and not result[-1].closed:
            before = result[-1].passage
            if max(before.tokens, piece.passage.tokens) < limit:
                both = ruler.whole(before.start, piece.passage.end)
                if both and both.tokens <= limit:
                    result[-1] = Piece(both, parent)
                    continue
        result.append(piece)
    if len(result) > 1:
        return [replace(piece, closed=True) for piece in result]
    return result
