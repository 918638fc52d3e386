"""How an event stands in a row of the log, and how a row proves that it is what was written.

Owns the columns, the chained checksum and the way from events to rows and back. It opens no file. The
checksum of a record covers all its fields and the checksum before it, so a record that is altered, dropped
or moved shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from struct import Struct, error as StructError
from typing import Any
from zlib import crc32

from swarm.errors import FencedError, NewerError, StoreError
from swarm.events import KINDS, Event
from swarm.payload import decode, encode, written_by

COLUMNS = "seq, time, epoch, cause, kind, version, key, payload, checksum"
Row = tuple[int, float, int, int, str, int, str, bytes, int]
"""The values of COLUMNS, in order."""
Opening = Callable[[int], bytes | None]
"""The payload of the JobOpened with which a master of this epoch took the job; None if there is none."""

_NUMBERS = Struct("<qdqqqIII").pack
_NAMES = {model: (kind, model.version) for kind, model in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the chain ends: the last record's number, time and checksum."""

    seq: int = 0
    time: float = 0.0
    checksum: int = 0


START = Tip()
FAULT = "this is a fault of the program, not of the job: please report it"


def fenced(epoch: int, ours: int, where: str) -> FencedError:
    """The error for a writer whose job another one has taken."""
    problem = f"this job was taken over by another process (epoch {epoch}; ours is {ours})"
    return FencedError(problem, where, "nothing was appended; the other process goes on")


def repeated(rows: Sequence[Row], taken: set[tuple[str, str]], where: str) -> StoreError:
    """The error for rows of which one has a (key, kind) that is `taken`, or that an earlier one of them has."""
    seen = set(taken)
    for seq, _, _, _, kind, _, key, _, _ in rows:
        if key and (key, kind) in seen:
            problem = f"event {seq} ({kind}) has the key {key!r}, which an earlier {kind} has already"
            return StoreError(problem, "log", FAULT)
        seen.add((key, kind))
    return StoreError("a record with one of these numbers exists already", where, FAULT)


def chained(
    previous: int,
    seq: int,
    time: float,
    epoch: int,
    cause: int,
    kind: str,
    version: int,
    key: str,
    payload: bytes,
) -> int:
    """The checksum of a record that follows one with checksum `previous`."""
    kind_bytes, key_bytes = kind.encode(), key.encode()
    numbers = _NUMBERS(seq, time, epoch, cause, version, len(kind_bytes), len(key_bytes), len(payload))
    return crc32(payload, crc32(numbers + kind_bytes + key_bytes, previous))


def to_rows(events: Sequence[Event], tip: Tip, epoch: int) -> list[Row]:
    """Rows for events that follow `tip`.

    Raises:
        StoreError: numbers are not dense, time decreases, or the epoch is not the writer's.
    """
    seq, time, checksum = tip.seq, tip.time, tip.checksum
    names, rows = _NAMES, []
    for event in events:
        seq += 1
        if event.seq != seq or event.epoch != epoch or not time <= event.time < inf:
            raise StoreError(_misfit(event, seq, time, epoch), "log", FAULT)
        time, key, cause = event.time + 0.0, event.key, event.cause  # + 0.0: SQLite keeps no sign of zero
        kind, version = names[type(event.body)]
        payload = encode(event.body)
        checksum = chained(checksum, seq, time, epoch, cause, kind, version, key, payload)
        rows.append((seq, time, epoch, cause, kind, version, key, payload, checksum))
    return rows


def _misfit(event: Event, seq: int, time: float, epoch: int) -> str:
    if event.seq != seq:
        return f"event {event.seq} ({event.kind}) was appended where {seq} comes next"
    if event.epoch != epoch:
        return f"event {seq} ({event.kind}) has epoch {event.epoch}; this writer's is {epoch}"
    return f"event {seq} ({event.kind}) has time {event.time!r}, after an event at {time!r}"


def intact(row: Sequence[Any], previous: int) -> bool:
    """Whether a row, of whatever types, is what was written after a record with checksum `previous`."""
    try:
        seq, time, epoch, cause, kind, version, key, payload, checksum = row
        return bool(chained(previous, seq, time, epoch, cause, kind, version, key, payload) == checksum)
    except (StructError, TypeError, AttributeError, ValueError):
        return False


def to_event(row: Row, opening: Opening, where: str) -> Event:
    """The event of an intact row. `where` is what to call its log before people.

    Raises:
        NewerError: its kind or version is newer than this software; it names the one that wrote it.
        StoreError: its payload cannot be read.
    """
    seq, time, epoch, cause, kind, version, key, payload, _ = row
    try:
        return Event(seq, time, epoch, cause, key, decode(kind, version, payload))
    except NewerError as error:
        problem, cure = error.message, error.cure
        if writer := written_by(opening(epoch) or b""):
            problem, cure = f"{problem}; swarmloom {writer} wrote it", f"use swarmloom {writer}, or a newer one"
        raise NewerError(problem, where, cure) from None
    except StoreError as error:
        raise StoreError(error.message, where, error.cure) from error


def sound(row: Row, previous: int, opening: Opening, where: str) -> bool:
    """Whether a row is intact and can be read.

    Raises:
        NewerError: it is intact, and newer than this software: that is no damage, and must never be cut.
    """
    if not intact(row, previous):
        return False
    try:
        decode(row[4], row[5], row[7])
    except NewerError:
        to_event(row, opening, where)  # raises it, with the name of who wrote it
    except StoreError:
        return False
    return True
