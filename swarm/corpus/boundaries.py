"""Where a text may be cut, best places first.

Owns the boundaries of prose and of lines of code. It measures nothing and decides nothing; `splitting`
chooses.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from swarm.corpus.splitting import Boundaries

LINE_BREAK = re.compile(r"\r\n|\r|\n")
_PARAGRAPH = re.compile(r"(?:\r\n|\r|\n)(?:[^\S\r\n]*(?:\r\n|\r|\n))+")
_HARD_LINE = re.compile(r"(?<=[.!?:;])[^\S\r\n]*(?:\r\n|\r|\n)|(?:\r\n|\r|\n)(?=[^a-z])")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*[^\S\r\n]+(?=[^a-z\s])|(?<=[。！？])")
_WORD = re.compile(r"\s+")


def line_starts(text: str) -> list[int]:
    """Offsets at which lines begin, as Python's own parser counts them, then the text's length."""
    starts = [0, *(match.end() for match in LINE_BREAK.finditer(text))]
    if starts[-1] != len(text):
        starts.append(len(text))
    return starts


def split_lines(text: str) -> tuple[list[int], list[str]]:
    """`line_starts`, and the lines between them with their line ends."""
    starts = line_starts(text)
    return starts, [text[start:end] for start, end in pairwise(starts)]


def of_prose(text: str) -> Boundaries:
    """Paragraphs, lines that end a thought, sentences, lines, words."""
    return _found(text, _PARAGRAPH, _HARD_LINE, _SENTENCE, LINE_BREAK, _WORD)


def of_lines(text: str) -> Boundaries:
    """Lines, sentences, words: what is left for a unit without structure."""
    return _found(text, LINE_BREAK, _SENTENCE, _WORD)


def ranked(text: str, ranks: Sequence[Sequence[int]]) -> Boundaries:
    """Offsets known beforehand, the best rank first and each ascending; then lines, sentences, words."""
    rest = of_lines(text)

    def boundaries(start: int, end: int) -> Iterator[Sequence[int]]:
        for rank in ranks:
            yield rank[bisect_left(rank, start) : bisect_right(rank, end)]
        yield from rest(start, end)

    return boundaries


def _found(text: str, *patterns: re.Pattern[str]) -> Boundaries:
    def boundaries(start: int, end: int) -> Iterator[Sequence[int]]:
        for pattern in patterns:
            yield [match.end() for match in pattern.finditer(text, start, end)]

    return boundaries
