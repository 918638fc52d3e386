"""A store without a disk, for tests of what stands above it.

Owns no promise of a store: it keeps what it is given, and fails when it is told to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from swarm.errors import StoreError
from swarm.events import Event
from swarm.store.interface import Snapshot


class MemoryStore:
    """A store in memory that counts its transactions, and fails when it is told to."""

    def __init__(self) -> None:
        self.epoch, self.torn = 1, 0
        self.events: list[Event] = []
        self.held: dict[str, bytes] = {}
        self.commits: list[int] = []
        self.full = False
        self.kept: Snapshot | None = None
        self.renewed = 0

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        if self.full:
            raise StoreError("there is no space left", "log")
        assert [event.seq for event in events] == list(range(self.last() + 1, self.last() + 1 + len(events)))
        self.events.extend(events)
        self.held.update(bodies)
        self.commits.append(len(events))

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        return iter(self.events[after:upto])

    def last(self) -> int:
        return len(self.events)

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        return {hash: self.held[hash] for hash in hashes}

    def body(self, hash: str) -> bytes:
        return self.held[hash]

    def lost(self) -> None:
        return None

    def keyed(self, prefix: str) -> Iterator[Event]:
        return (event for event in self.events if event.key.startswith(prefix))

    def life(self, sound: bool = False) -> Iterator[Event]:
        return (event for event in self.events if event.kind in ("JobCreated", "JobOpened", "PhaseChanged", "JobEnded"))

    def renew(self) -> None:
        self.renewed += 1

    def snapshot(self) -> Snapshot | None:
        return self.kept

    def keep(self, snapshot: Snapshot) -> None:
        if self.full:
            raise StoreError("there is no space left", "log")
        if snapshot.seq != self.last():
            raise StoreError(f"a snapshot of {snapshot.seq} events was to be kept with a log of {self.last()}", "log")
        self.kept = snapshot

    def close(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
