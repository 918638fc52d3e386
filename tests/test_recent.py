"""Bodies in memory: what stays, and for how long."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from swarm.runtime.recent import ENTRY_BYTES, Recent

ROOM = 8 * (100 + ENTRY_BYTES)


def body(number: int) -> dict[str, bytes]:
    return {str(number): bytes([number]) * 100}


class Shelf:
    """Has every body, and notes which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def load(self, names: Iterable[str]) -> dict[str, bytes]:
        self.asked += names
        return {name: bytes([int(name)]) * 100 for name in names}


def test_it_keeps_within_its_bounds_what_came_last() -> None:
    recent = Recent(ROOM)
    for number in range(40):
        recent.put(body(number))
        assert recent.bytes <= ROOM
        assert all(str(one) in recent for one in range(max(0, number - 3), number + 1)), "half of it is the least"
    assert "30" not in recent
    assert recent["39"] == bytes([39]) * 100


def test_what_comes_again_counts_once() -> None:
    recent = Recent(ROOM)
    for _ in range(40):
        recent.put(body(1))
    assert recent.bytes == 100 + ENTRY_BYTES


def test_what_is_held_is_loaded_once_and_stays_while_it_is_asked_for() -> None:
    recent, shelf = Recent(ROOM), Shelf()
    for number in range(40):
        recent.hold(["200", str(number)], shelf.load)
        assert recent["200"] == bytes([200]) * 100
    assert shelf.asked.count("200") == 1
    assert recent.bytes <= ROOM


def test_all_that_is_held_together_is_there_however_large_it_is() -> None:
    recent, shelf = Recent(ROOM), Shelf()
    recent.hold(map(str, range(4)), shelf.load)
    recent.hold(map(str, range(3, 6)), shelf.load)  # 3 is older by now
    recent.hold(map(str, range(40)), shelf.load)
    assert all(recent[str(number)] == bytes([number]) * 100 for number in range(40))
    assert sorted(map(int, shelf.asked)) == list(range(40)), "none was loaded that was there"


def test_something_large_goes_with_the_call_after_the_next() -> None:
    recent = Recent(ROOM)
    recent.put({"large": bytes(9 * ROOM)})
    recent.put(body(1))
    recent.put(body(2))
    assert recent.bytes <= ROOM and "large" not in recent and "1" in recent and "2" in recent


def test_what_cannot_be_loaded_changes_nothing() -> None:
    recent = Recent(ROOM)
    recent.put(body(1))

    def broken(names: list[str]) -> dict[str, bytes]:
        raise OSError(f"no {names}")

    with pytest.raises(OSError, match="no"):
        recent.hold(["1", "2"], broken)
    assert recent["1"] == bytes([1]) * 100 and recent.bytes == 100 + ENTRY_BYTES
