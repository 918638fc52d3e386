"""What a store is to the rest of the product.

Owns the promises: an event that `append` returned is durable; numbers are dense; time never decreases; a writer with an
old epoch is refused; readers never see what is not durable. The engines beside this file keep them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from swarm.events import Event


class Reader(Protocol):
    """Reads one job's log and bodies, from any process, without endangering the writer."""

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        """Durable events with after < seq <= upto, in order.

        Raises:
            StoreError: a record is damaged or of a newer version.
        """
        ...

    def last(self) -> int:
        """The number of the last durable event, 0 for an empty log."""
        ...

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """The bodies named, by hash.

        Raises:
            StoreError: one of them is missing or damaged.
        """
        ...

    def body(self, hash: str) -> bytes: ...

    def keyed(self, prefix: str) -> Iterator[Event]:
        """Durable events whose key starts with `prefix`, in order."""
        ...

    def close(self) -> None: ...


class Writer(Reader, Protocol):
    """The one writer of a job's log. Opening it takes the job: the epoch rises and earlier writers are fenced."""

    epoch: int

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        """Makes events and bodies durable in one transaction; returns after the commit.

        Events are already stamped: dense `seq` after `last()`, this writer's `epoch`. Bodies that exist are left alone.

        Raises:
            FencedError: another writer has taken the job.
            StoreError: nothing was appended (no space, I/O error); this writer must not be used again.
        """
        ...
