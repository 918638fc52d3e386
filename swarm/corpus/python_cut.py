"""Cutting Python source at its functions and classes.

Owns which lines belong together and what their breadcrumbs say. The outline comes from `python_outline`,
sizes from `splitting`. Decorators and the comments above belong to a definition; a function is cut only if it
is too long.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from swarm.corpus import pieces
from swarm.corpus.boundaries import line_starts, ranked
from swarm.corpus.pieces import Piece
from swarm.corpus.python_outline import Definition, outline
from swarm.corpus.splitting import Boundaries, Ruler


def cut_python(ruler: Ruler, path: str, merge_tokens: int) -> Iterator[Piece]:
    """The pieces of a Python file, in order."""
    starts = line_starts(ruler.text)
    yield from _Cut(ruler, pieces.root(path), merge_tokens, starts).level(outline(ruler.text), 0, "")


@dataclass(frozen=True, slots=True)
class _Cut:
    ruler: Ruler
    root: str
    merge_tokens: int
    starts: list[int]

    def level(self, owner: Definition, first: int, outer: str) -> list[Piece]:
        """The pieces of a module, of a class, or of a function that is too long, from line `first` on.

        `outer` is the qualified name of what the owner stands in.
        """
        name = _joined(outer, owner.name)
        breadcrumb = self.breadcrumb(owner, outer)
        boundaries = self.boundaries(owner)
        found: list[Piece] = []
        line = solid = first
        for inner in owner.inner:
            if owner.kind == "function" and not self.stands_alone(inner):
                solid = inner.after
                continue
            leaves = bisect_right(owner.leaves, inner.first)
            code = max(solid, owner.leaves[leaves - 1] if leaves else 0)
            begin = self.with_comments(code, inner)
            found.extend(self.cut(line, begin, breadcrumb, boundaries))
            found.extend(self.definition(inner, begin, name))
            line = solid = inner.after
        found.extend(self.cut(line, owner.after, breadcrumb, boundaries))
        if owner.kind == "function":
            return list(_numbered(found, breadcrumb))
        return pieces.merged(self.ruler, found, breadcrumb, self.merge_tokens)

    def definition(self, definition: Definition, first: int, outer: str) -> list[Piece]:
        """The pieces of a class or function whose text begins at line `first`."""
        whole = self.ruler.whole(self.starts[first], self.starts[definition.after])
        small = definition.kind == "function" or (whole and whole.tokens <= self.merge_tokens)
        if whole and small:
            return [Piece(whole, self.breadcrumb(definition, outer))]
        return self.level(definition, first, outer)

    def cut(self, first: int, after: int, breadcrumb: str, boundaries: Boundaries) -> Iterator[Piece]:
        return pieces.cut(self.ruler, self.starts[first], self.starts[after], breadcrumb, boundaries)

    def breadcrumb(self, definition: Definition, outer: str) -> str:
        if definition.kind == "module":
            return self.root
        kind = "class " if definition.kind == "class" else ""
        return f"{self.root} > {kind}{_joined(outer, definition.name)}"

    def stands_alone(self, inner: Definition) -> bool:
        """Whether a definition inside a function that is too long is big enough for a piece of its own."""
        passage = self.ruler.passage(self.starts[inner.first], self.starts[inner.after])
        return passage is not None and passage.tokens > self.merge_tokens

    def with_comments(self, code: int, inner: Definition) -> int:
        """The first line that goes with a definition: comments and headers above it if they fit."""
        starts, ruler = self.starts, self.ruler
        adjacent = inner.first
        while adjacent > code and ruler.text[starts[adjacent - 1] : starts[adjacent]].lstrip()[:1] == "#":
            adjacent -= 1
        for first in (code, adjacent):
            if ruler.whole(starts[first], starts[inner.after]):
                return first
        fits_alone = inner.kind == "function" and ruler.whole(starts[inner.first], starts[inner.after])
        if fits_alone:
            return inner.first
        return code if ruler.whole(starts[code], starts[inner.first]) else adjacent

    def boundaries(self, owner: Definition) -> Boundaries:
        """Where statements begin, with the comments above them; the outermost statements first."""
        ranks: dict[int, list[int]] = {}
        for line, depth in owner.statements:
            first = line
            while first and self.ruler.text[self.starts[first - 1] : self.starts[first]].lstrip()[:1] == "#":
                first -= 1
            ranks.setdefault(depth, []).append(self.starts[first])
        return ranked(self.ruler.text, [sorted(ranks[depth]) for depth in sorted(ranks)])


def _joined(outer: str, name: str) -> str:
    return f"{outer}.{name}" if outer and name else outer or name


def _numbered(found: list[Piece], breadcrumb: str) -> Iterator[Piece]:
    """The pieces of one long function: its own parts from the second on say so."""
    part = 0
    for piece in found:
        if piece.breadcrumb == breadcrumb:
            part += 1
            suffix = f" (part {part})" if part > 1 else ""
            piece = replace(piece, breadcrumb=breadcrumb + suffix)
        yield replace(piece, closed=True)
