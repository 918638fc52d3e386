"""A table from names to small numbers that takes a few bytes an entry: where in an archive to look for something.

Owns the table alone. It may answer with numbers that do not belong to a name (two names in four thousand million share a
key), and answers with every number that it was ever given for one: who asks looks whether what he finds there is right.
"""

from __future__ import annotations

from array import array
from zlib import crc32

_FIRST = 1 << 12
_MANY = 16
"""Numbers of one key in the table itself; further ones stand in a list of the key's own, so that none is walked past."""


class Index:
    """Names of any text to numbers from 0 to 2**32 - 2; a name may have several."""

    __slots__ = ("_many", "_mask", "_slots", "_used")

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST))
        self._mask, self._used = _FIRST - 1, 0
        self._many: dict[int, array[int]] = {}

    def __sizeof__(self) -> int:
        return 8 * len(self._slots) + sum(8 * len(held) for held in self._many.values())

    def add(self, name: str, number: int) -> None:
        if self._used * 3 > self._mask * 2:
            self._grow()
        self._put(crc32(name.encode()) << 32 | number + 1)

    def get(self, name: str) -> list[int]:
        """The numbers that were added for a name, each once, the highest first."""
        key = crc32(name.encode())
        slots, mask, at, found = self._slots, self._mask, key & self._mask, []
        while entry := slots[at]:
            if entry >> 32 == key:
                found.append((entry & 0xFFFFFFFF) - 1)
            at = at + 1 & mask
        found.extend(self._many.get(key, ()))
        return sorted(found, reverse=True) if len(found) > 1 else found

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
        before, size = self._slots, 2 * len(self._slots)
        self._slots, self._mask, self._used = array("Q", bytes(8 * size)), size - 1, 0
        for entry in before:
            if entry:
                self._put(entry)
