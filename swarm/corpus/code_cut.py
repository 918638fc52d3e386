"""Cutting source code other than Python at its top-level blocks.

Owns a reading by lines alone: a block begins at an unindented line after a blank line. It parses no language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from swarm.corpus import pieces
from swarm.corpus.boundaries import ranked, split_lines
from swarm.corpus.pieces import Piece
from swarm.corpus.splitting import Boundaries, Ruler

_NAMED = re.compile(
    r"\b(?:function|func|fn|class|struct|interface|enum|trait|impl|module|namespace|procedure|def)\b"
    r"[*\s]+(?:\([^)]*\)\s*)?(?P<name>[A-Za-z_$][\w$]*)"
)
_CLOSING = re.compile(r"[)\]}>;,]|end\b|else\b|#endif|#else")


def cut_code(ruler: Ruler, path: str, merge_tokens: int) -> Iterator[Piece]:
    """The pieces of a source file, in order; a block that says its name has it in its breadcrumb."""
    text, root = ruler.text, pieces.root(path)
    starts, lines = split_lines(text)
    blocks = [0]
    for at in range(1, len(lines)):
        begins = lines[at].strip() and not lines[at][0].isspace() and not _CLOSING.match(lines[at])
        if begins and not lines[at - 1].strip():
            blocks.append(at)
    boundaries = _by_indentation(text, starts, lines)
    found: list[Piece] = []
    for first, after in zip(blocks, [*blocks[1:], len(lines)], strict=True):
        named = next(filter(None, map(_name, lines[first:after])), "")
        breadcrumb = f"{root} > {pieces.label(named)}" if named else root
        found.extend(pieces.cut(ruler, starts[first], starts[after], breadcrumb, boundaries))
    yield from pieces.merged(ruler, found, root, merge_tokens)


def _name(line: str) -> str:
    """The name that an unindented line declares, or nothing."""
    if not line[:1].strip() or line.startswith(("//", "#", "/*", "--", ";")):
        return ""
    found = _NAMED.search(line[:400])
    return found["name"] if found else ""


def _by_indentation(text: str, starts: list[int], lines: list[str]) -> Boundaries:
    """Lines after a blank line, the least indented first; then other lines, the least indented first."""
    ranks: dict[tuple[bool, int], list[int]] = {}
    for at, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or _CLOSING.match(stripped):
            continue
        indent = min(len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip()), 24)
        after_blank = at > 0 and not lines[at - 1].strip()
        ranks.setdefault((not after_blank, indent), []).append(starts[at])
    return ranked(text, [ranks[key] for key in sorted(ranks)])
