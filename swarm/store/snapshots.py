"""The snapshot of a log's fold, as it lies in the SQLite file of the log.

Owns the two tables and the proof that a snapshot is whole and belongs to this log: it names the record up to which it
was folded by number and chained checksum, which covers every record before. There is one at most; a new one takes its
place in one transaction. It knows nothing of what a snapshot means, and a log without one lacks nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import msgpack

from swarm.errors import StoreError
from swarm.store.interface import Snapshot
from swarm.store.records import Tip

TABLES = """
CREATE TABLE IF NOT EXISTS snapshot(
    seq INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, format TEXT NOT NULL, state BLOB NOT NULL, parts BLOB NOT NULL,
    digest BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS parts(name TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
"""
Row = tuple[int, int, str, bytes, bytes, bytes]
"""A snapshot as it lies in a table: seq, checksum, format, state, names of its parts, and the digest of these."""
CURE = "nothing is lost: the log is read from its first event"


def part_name(data: bytes) -> str:
    """What a part is called: a digest of it, so that one that has not changed is not written again."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest(seq: int, checksum: int, format: str, state: bytes, parts: bytes) -> bytes:
    """The digest that a snapshot carries, of everything in its row."""
    return hashlib.blake2b(msgpack.packb([seq, checksum, format, state, parts]), digest_size=16).digest()


def to_row(snapshot: Snapshot, tip: Tip) -> Row:
    """The row of a snapshot of the log up to `tip`."""
    names: bytes = msgpack.packb(list(snapshot.parts))
    check = digest(tip.seq, tip.checksum, snapshot.format, snapshot.state, names)
    return tip.seq, tip.checksum, snapshot.format, snapshot.state, names, check


def exists(connection: apsw.Connection) -> bool:
    """Whether this log has ever had a snapshot; logs of earlier versions lack the tables."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'snapshot'").get)


def stored(connection: apsw.Connection) -> set[str]:
    """The names of the parts that are there."""
    return {str(name) for (name,) in connection.execute("SELECT name FROM parts")} if exists(connection) else set()


def put(connection: apsw.Connection, snapshot: Snapshot, tip: Tip, have: set[str]) -> None:
    """Writes a snapshot of the log up to `tip` over the one before, inside the caller's transaction.

    `have` are the names of the parts that are stored: they are not written again, and those not named now are deleted.
    """
    if not exists(connection):
        connection.execute(TABLES).fetchall()
    row = to_row(snapshot, tip)
    connection.execute("DELETE FROM snapshot")
    connection.execute("INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.executemany("DELETE FROM parts WHERE name = ?", [(name,) for name in have.difference(snapshot.parts)])
    connection.executemany("INSERT INTO parts VALUES (?, ?)", fresh(snapshot, have))


def fresh(snapshot: Snapshot, have: set[str]) -> list[tuple[str, bytes]]:
    """The parts of a snapshot that are not stored yet, by name."""
    return [(name, snapshot.parts[name]) for name in sorted(snapshot.parts.keys() - have)]


def get(connection: apsw.Connection, path: Path) -> Snapshot | None:
    """The snapshot of a log; None if there is none.

    Raises:
        StoreError: it is damaged, incomplete, or of another log than this one.
    """
    if not exists(connection):
        return None
    found: Any = connection.execute("SELECT seq, checksum, format, state, parts, digest FROM snapshot").fetchone()
    if found is None:
        return None
    record: Any = connection.execute("SELECT checksum FROM events WHERE seq = ?", (found[0],)).get
    have: dict[str, bytes] = dict(connection.execute("SELECT name, bytes FROM parts").fetchall())  # type: ignore[arg-type]
    return whole(found, record, have, str(path))


def whole(row: Row, record: int | None, have: Mapping[str, bytes], where: str) -> Snapshot:
    """The snapshot of a row, if it is what was written. `record` is the log's checksum at its number.

    Raises:
        StoreError: it is damaged, incomplete, or of another log than this one.
    """
    seq, checksum, format, state, names, check = row
    if digest(seq, checksum, format, state, names) != check:
        raise StoreError("the snapshot is damaged", where, CURE)
    if record != checksum:
        problem = f"the snapshot is of another log: its record {seq} is not this one's"
        raise StoreError(problem, where, CURE)
    parts = {name: have.get(name, b"") for name in msgpack.unpackb(names)}
    for name, data in parts.items():
        if not isinstance(data, bytes) or part_name(data) != name:
            raise StoreError(f"part {name} of the snapshot is damaged or missing", where, CURE)
    return Snapshot(seq, format, state, parts)


def drop(connection: apsw.Connection) -> None:
    """Removes the snapshot, inside the caller's transaction."""
    if exists(connection):
        connection.execute("DELETE FROM snapshot; DELETE FROM parts").fetchall()
