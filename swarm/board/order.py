"""A sorted list that stays cheap to change and small to keep when it is long: short sorted lists in a row, of which only
those in use are unpacked."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import suppress
from sys import getsizeof
from typing import Any

import msgpack

Position = tuple[int, int, str, str]
"""(first cited span, first character, hash of the body, note id): the order of every query, so that neither the order
in which tasks end nor the job's id, on which every note's id depends, shows."""

LONGEST = 256
"""Items of one short list before it is split."""
WARM = 8
"""Short lists of one order that are unpacked at a time: those that were changed last. Few: what lies about unpacked is packed
once it is cold, and pushes what is worked with out of the processor's caches until then."""


class _Chunk:
    """One short list, as items or packed."""

    __slots__ = ("items", "packed")

    def __init__(self, items: list[Position]) -> None:
        self.items: list[Position] | None = items
        self.packed = b""

    def read(self) -> list[Position]:
        if self.items is not None:
            return self.items
        spans, starts, hashes, ids = msgpack.unpackb(self.packed)
        return list(zip(spans, starts, _names(hashes), _names(ids), strict=True))

    def pack(self) -> None:
        spans, starts, hashes, ids = zip(*self.items or (), strict=True)
        self.packed, self.items = msgpack.packb((spans, starts, _raw(hashes), _raw(ids))), None


def _raw(names: tuple[str, ...]) -> tuple[int, bytes] | tuple[str, ...]:
    """Names as the bytes that they spell, with the length of one, where all are lower-case hexadecimal and equally long."""
    spelled, length = "".join(names), len(names[0])
    with suppress(ValueError):
        if length and (raw := bytes.fromhex(spelled)).hex() == spelled and all(len(name) == length for name in names):
            return length, raw
    return names


def _names(packed: list[Any]) -> list[str]:
    """What `_raw` was given."""
    if isinstance(packed[0], str):
        return packed
    length, raw = packed
    spelled = raw.hex()
    return [spelled[at : at + length] for at in range(0, len(spelled), length)]


class Order:
    """Positions, each once, from the lowest to the highest."""

    __slots__ = ("_chunks", "_highest", "_length", "_warm")

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        ordered = sorted(positions)
        half = LONGEST // 2
        self._chunks = [_Chunk(ordered[at : at + half]) for at in range(0, len(ordered), half)]
        self._highest = [chunk.read()[-1] for chunk in self._chunks]
        self._length = len(ordered)
        self._warm = dict.fromkeys(self._chunks)
        if len(self._chunks) > WARM:
            self.pack()

    def __len__(self) -> int:
        return self._length

    def __sizeof__(self) -> int:
        """Bytes that it takes, but for the short lists that are unpacked."""
        return sum(getsizeof(chunk) + getsizeof(chunk.packed) + 16 for chunk in self._chunks)

    def pack(self) -> None:
        """Packs every short list."""
        for chunk in self._warm:
            chunk.pack()
        self._warm.clear()

    def __iter__(self) -> Iterator[Position]:
        for chunk in self._chunks:
            yield from chunk.read()

    def add(self, position: Position) -> None:
        self._length += 1
        if not self._chunks:
            self._chunks, self._highest = [_Chunk([])], [position]
        at = len(self._chunks) - 1
        if at and position <= self._highest[at - 1]:  # else it belongs into the last, as most do that come in the text's order
            at = bisect_left(self._highest, position, 0, at)
        items = self._open(at)
        insort(items, position)
        self._highest[at] = items[-1]
        if len(items) > LONGEST:
            half = len(items) // 2
            lower, upper = _Chunk(items[:half]), _Chunk(items[half:])
            self._warm.pop(self._chunks[at])
            self._chunks[at : at + 1] = [lower, upper]
            self._highest[at : at + 1] = [items[half - 1], items[-1]]
            self._open(at)
            self._open(at + 1)

    def remove(self, position: Position) -> None:
        """Takes out a position that is there."""
        at = bisect_left(self._highest, position)
        items = self._open(at)
        del items[bisect_left(items, position)]
        self._length -= 1
        if items:
            self._highest[at] = items[-1]
        else:
            self._warm.pop(self._chunks[at])
            del self._chunks[at], self._highest[at]

    def _open(self, at: int) -> list[Position]:
        """The items of a short list, to be changed; the one that was changed longest ago is packed instead."""
        chunk, warm = self._chunks[at], self._warm
        items = chunk.items = chunk.read()
        if chunk not in warm and len(warm) >= WARM:
            oldest = next(iter(warm))
            del warm[oldest]
            oldest.pack()
        warm.pop(chunk, None)
        warm[chunk] = None
        return items
