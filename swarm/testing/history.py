"""What clients of a log were told, held against what the log says in the end.

Owns the record of appends and reads, and the check. A log that only grows makes the check linear: nothing has to be searched
for, as it would for values that change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from swarm.events import Event

Outcome = Literal["ok", "fail", "unknown"]
"""`fail` is a promise that nothing was appended; `unknown` promises nothing."""


@dataclass
class History:
    """Everything that some clients did. Keys are unique among all events that any of them appends."""

    appended: list[tuple[str, tuple[str, ...], Outcome]] = field(default_factory=list)
    """(client, keys of one append, how it ended), in the order in which the answers came."""
    reads: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    """(reader, the numbers that it saw from the first on), in order."""

    def told(self, client: str, keys: Sequence[str], outcome: Outcome) -> None:
        self.appended.append((client, tuple(keys), outcome))

    def saw(self, reader: str, numbers: Sequence[int]) -> None:
        self.reads.append((reader, tuple(numbers)))

    def check(self, log: Sequence[Event]) -> None:
        """Compares what was told with the log.

        Raises:
            AssertionError: names the first promise that was broken.
        """
        assert [event.seq for event in log] == list(range(1, len(log) + 1)), "numbers are not dense"
        epochs, times = [event.epoch for event in log], [event.time for event in log]
        assert epochs == sorted(epochs), "a stale writer appended"
        assert times == sorted(times), "time goes back"
        keys = [event.key for event in log if event.key]
        assert len(keys) == len(set(keys)), "a key stands twice"
        self._check_appends({key: at for at, key in enumerate(keys)})
        seen: dict[str, int] = {}
        for reader, numbers in self.reads:
            assert numbers == tuple(range(1, len(numbers) + 1)), f"{reader} read what is no prefix"
            assert seen.get(reader, 0) <= len(numbers) <= len(log), f"{reader} saw the log shrink, or more than there is"
            seen[reader] = len(numbers)

    def _check_appends(self, stands: dict[str, int]) -> None:
        last: dict[str, int] = {}
        for client, keys, outcome in self.appended:
            there = [key for key in keys if key in stands]
            if outcome == "ok":
                assert len(there) == len(keys), f"{client} was told that {keys[0]} is durable, and it is not there"
                assert stands[keys[0]] > last.get(client, -1), f"{client}'s appends changed places"
                last[client] = stands[keys[-1]]
            else:
                assert outcome == "unknown" or not there, f"{client} was told that {keys[0]} failed, and it is there"
                assert len(there) in (0, len(keys)), f"an append of {client} is there in part"
