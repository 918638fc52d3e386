"""Cutting a stretch of text into passages that fit a number of tokens.

Owns the one place where sizes are decided: `Ruler` measures, `next_passage` takes the longest passage that
fits and ends it at the best boundary. It knows nothing of files or of languages; those hand in the boundaries
that they prefer. A passage depends only on the text from its start to `Ruler.reach` characters on, never on
what came before; so a text that arrives in blocks is cut exactly as the whole text would be.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from swarm.errors import CorpusError
from swarm.window.tokens import Tokenizer

SMALLEST_LIMIT = 32
"""Fewer tokens than this are refused: a single unusual character can be many tokens."""
CHARACTERS_PER_TOKEN = 32
"""A passage never has more characters than this times its limit, so that looking ahead is bounded."""
PROBE = 256
DEEPEST_INDENT = 128

Boundaries = Callable[[int, int], Iterable[Sequence[int]]]
"""(start, end) -> offsets in that range, ascending: a sequence for each kind of boundary, the best first."""

_NOT_BLANK = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Passage:
    """A range of the text without blank edges, and its exact number of tokens."""

    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Ruler:
    """A text, a tokenizer and the most tokens a passage may have."""

    text: str
    tokenizer: Tokenizer
    limit: int

    def __post_init__(self) -> None:
        if self.limit < SMALLEST_LIMIT:
            raise CorpusError(
                f"passages of at most {self.limit} tokens are too small to cut",
                "max_tokens",
                f"Allow at least {SMALLEST_LIMIT} tokens.",
            )

    @property
    def reach(self) -> int:
        """The most characters that a decision looks at."""
        return self.limit * CHARACTERS_PER_TOKEN

    def opening(self, start: int, end: int) -> int:
        """Where the first line with something on it begins; indentation is kept. `end` if all is blank."""
        found = _NOT_BLANK.search(self.text, start, end)
        if not found:
            return end
        first = found.start()
        line = max(self.text.rfind("\n", start, first), self.text.rfind("\r", start, first)) + 1
        if not line:
            line = start if self.begins_line(start) else first
        return line if first - line <= DEEPEST_INDENT else first

    def trimmed(self, start: int, end: int) -> tuple[int, int]:
        """The range without blank lines or blanks at its edges, but for the first line's indentation."""
        start = self.opening(start, end)
        return start, start + len(self.text[start:end].rstrip())

    def begins_line(self, at: int) -> bool:
        return at == 0 or self.text[at - 1] in "\r\n"

    def passage(self, start: int, end: int) -> Passage | None:
        """The range as a passage, however long; None if it is blank."""
        start, end = self.trimmed(start, end)
        return Passage(start, end, self.tokenizer.count(self.text[start:end])) if start < end else None

    def whole(self, start: int, end: int) -> Passage | None:
        """The range as a passage if it fits the limit; None if it is blank or too long."""
        start, end = self.trimmed(start, end)
        if start >= end or end - start > self.reach:
            return None
        tokens = self.tokenizer.count(self.text[start:end])
        return Passage(start, end, tokens) if tokens <= self.limit else None


def next_passage(ruler: Ruler, start: int, end: int, boundaries: Boundaries) -> tuple[Passage | None, int]:
    """The passage that begins at `start`, and where the next one begins. None: only blanks up to there."""
    start = ruler.opening(start, end)
    if start >= end:
        return None, end
    offsets, seen = _look_ahead(ruler, start, end)
    budget = ruler.limit
    while budget > 0:
        stop = start + offsets[budget][0] if budget < len(offsets) else seen
        if stop < end:
            stop = _best(start, stop, boundaries)
        if stop > start:
            passage = ruler.passage(start, stop)
            if passage is None or passage.tokens <= ruler.limit:
                return passage, stop
            # Alone, this beginning has more tokens than it had inside the longer text.
            budget = min(budget - 1, max(1, budget * ruler.limit // passage.tokens))
        else:
            budget -= 1
    raise CorpusError(
        f"one character is more than {ruler.limit} tokens: {ruler.text[start]!r}",
        "max_tokens",
        "Allow more tokens to a passage.",
    )


def passages(ruler: Ruler, start: int, end: int, boundaries: Boundaries) -> Iterator[Passage]:
    """The range cut from left to right; between passages there are only blanks."""
    while start < end:
        passage, start = next_passage(ruler, start, end, boundaries)
        if passage:
            yield passage


def _look_ahead(ruler: Ruler, start: int, end: int) -> tuple[list[tuple[int, int]], int]:
    """Token ranges, relative to `start`, of a stretch with more tokens than fit; and where it ends."""
    # A probe tells how dense the text is. It depends on nothing but the text from `start` on.
    probe = ruler.text[start : min(end, start + PROBE)]
    size = PROBE + len(probe) * ruler.limit * 5 // (4 * max(1, ruler.tokenizer.count(probe)))
    while True:
        seen = min(end, start + size, start + ruler.reach)
        offsets = ruler.tokenizer.offsets(ruler.text[start:seen])
        if len(offsets) > ruler.limit or seen == end or seen == start + ruler.reach:
            return offsets, seen
        size *= 2


def _best(start: int, stop: int, boundaries: Boundaries) -> int:
    """The last boundary of the best kind that leaves the passage at least half full; else `stop` itself."""
    half = start + (stop - start) // 2
    for kind in boundaries(start, stop):
        index = bisect_right(kind, stop)
        if index and kind[index - 1] > half:
            return kind[index - 1]
    return stop
