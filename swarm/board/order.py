"""A sorted list that stays cheap to change when it is long: short sorted lists in a row."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

Position = tuple[int, int, str, str]
"""(first cited span, first character, hash of the body, note id): the order of every query, so that neither the order
in which tasks end nor the job's id, on which every note's id depends, shows."""

LONGEST = 1024
"""Items of one short list before it is split."""


class Order:
    """Positions, each once, from the lowest to the highest."""

    __slots__ = ("_chunks", "_highest", "_length")

    def __init__(self) -> None:
        self._chunks: list[list[Position]] = []
        self._highest: list[Position] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Position]:
        for chunk in self._chunks:
            yield from chunk

    def add(self, position: Position) -> None:
        self._length += 1
        if not self._chunks:
            self._chunks, self._highest = [[position]], [position]
            return
        at = min(bisect_left(self._highest, position), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, position)
        self._highest[at] = chunk[-1]
        if len(chunk) > LONGEST:
            half = len(chunk) // 2
            self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
            self._highest[at : at + 1] = [chunk[half - 1], chunk[-1]]

    def remove(self, position: Position) -> None:
        """Takes out a position that is there."""
        at = bisect_left(self._highest, position)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, position)]
        self._length -= 1
        if chunk:
            self._highest[at] = chunk[-1]
        else:
            del self._chunks[at], self._highest[at]
