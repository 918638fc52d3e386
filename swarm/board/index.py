"""A table from names to small numbers that takes a few bytes an entry: where in an archive to look for something.

Owns the table alone. It may answer with numbers that do not belong to a name (two names in four thousand million share a
key), and answers with every number that it was ever given for one: who asks looks whether what he finds there is right.
"""

from __future__ import annotations

from array import array
from zlib import crc32

_FIRST = 1 << 12
_MOVED = 16
"""Slots of an outgrown table that move with each addition: all have long before the next one is outgrown, and no addition
waits for a whole table."""
_MANY = 16
"""Numbers of one key in the table itself; further ones stand in a list of the key's own, so that none is walked past."""


class Index:
    """Names of any text to numbers from 0 to 2**32 - 2; a name may have several."""

    __slots__ = ("_left", "_many", "_mask", "_moved", "_slots", "_used")

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST))
        self._mask, self._used = _FIRST - 1, 0
        self._left, self._moved = array("Q"), 0
        """A table that was outgrown, and how many of its slots have moved."""
        self._many: dict[int, array[int]] = {}

    def __sizeof__(self) -> int:
        return 8 * (len(self._slots) + len(self._left)) + sum(8 * len(held) for held in self._many.values())

    def add(self, name: str, number: int) -> None:
        if self._used * 3 > self._mask * 2:
            self._grow()
        if self._left:
            self._move()
        self._put(crc32(name.encode()) << 32 | number + 1)

    def get(self, name: str) -> list[int]:
        """The numbers that were added for a name, each once, the highest first."""
        key = crc32(name.encode())
        found = list(self._many.get(key, ()))
        for slots in (self._slots, self._left) if self._left else (self._slots,):
            mask = len(slots) - 1
            at = key & mask
            while entry := slots[at]:
                if entry >> 32 == key:
                    found.append((entry & 0xFFFFFFFF) - 1)
                at = at + 1 & mask
        return sorted(set(found), reverse=True) if len(found) > 1 else found

    def _put(self, entry: int) -> None:
        slots, mask, key, same = self._slots, self._mask, entry >> 32, 0
        at = key & mask
        while held := slots[at]:
            if held == entry:
                return
            same += held >> 32 == key
            if same >= _MANY:
                self._overflow(key, (entry & 0xFFFFFFFF) - 1)
                return
            at = at + 1 & mask
        slots[at] = entry
        self._used += 1

    def _overflow(self, key: int, number: int) -> None:
        held = self._many.setdefault(key, array("L"))
        if not held or held[-1] != number:
            held.append(number)

    def _grow(self) -> None:
        self._left, self._moved = self._slots, 0
        size = 2 * len(self._slots)
        self._slots, self._mask, self._used = array("Q", (0,)) * size, size - 1, 0

    def _move(self) -> None:
        """Brings some slots over. They stay where they were as well: to empty one would part those behind it from their key."""
        upto = self._moved + _MOVED
        for entry in self._left[self._moved : upto]:
            if entry:
                self._put(entry)
        self._moved = upto
        if upto >= len(self._left):
            self._left = array("Q")
